"""Abilities that a base model has before training: the loss of fixed texts before and after."""

__all__ = ["GENERAL"]

GENERAL = "general_text"
"""Name of the result."""
