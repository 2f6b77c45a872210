"""Risks of a model: prompts that provoke a failure, and the share of those that did."""
