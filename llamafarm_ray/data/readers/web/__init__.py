"""Readers of web pages: HTML, saved pages (MHTML) and books made of pages (EPUB)."""
