"""Verbs that evaluate and rank."""
