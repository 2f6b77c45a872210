"""Evaluate a model: what is asked, of which model, and where the result goes."""
