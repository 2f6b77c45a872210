"""Metrics, logs and traces of all parts: what they are called, and how they leave a process."""
