"""Evaluate a model: its questions, the engine, and the record of the result."""
