"""Readers of markup languages for text: reStructuredText, AsciiDoc, LaTeX and Org."""
