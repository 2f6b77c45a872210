"""Metrics, logs and traces of all parts: their names, and their export from a process."""
