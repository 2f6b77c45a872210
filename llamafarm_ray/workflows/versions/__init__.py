"""Registered versions: register, list, compare and describe."""
