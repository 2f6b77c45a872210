"""Verbs as Ray jobs: packaged, sent and followed."""
