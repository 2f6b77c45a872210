"""Verbs that work on registered versions and aliases."""
