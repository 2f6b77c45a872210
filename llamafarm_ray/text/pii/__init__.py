"""Personal data and secrets in text: recognition and redaction."""
