"""Verbs that deploy and watch."""
