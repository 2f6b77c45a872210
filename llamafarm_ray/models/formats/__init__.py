"""Formats that models come in: archives, weight files, pickles that are refused."""
