"""Verbs that work on a model's files."""
