"""Quantized forms of a model: weights in few bits, measured against the model that they were made from."""
