"""Passages for a question, by words and by meaning."""
