"""Evaluations of your own: questions with accepted answers, or a scorer in Python."""
