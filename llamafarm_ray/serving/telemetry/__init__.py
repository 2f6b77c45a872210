"""Measurements of requests: outcomes, tokens, statistics by version, rollout windows, metrics and spans."""
