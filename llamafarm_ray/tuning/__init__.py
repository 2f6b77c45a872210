"""Sweeps on Ray Tune: search, early stopping of trials, and results.

The caller passes the function that trains a trial.
"""
