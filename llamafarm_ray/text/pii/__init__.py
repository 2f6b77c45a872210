"""Personal data and secrets in text: what is recognized, and its redaction."""
