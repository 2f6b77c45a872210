"""Sweeps on Ray Tune: what to try, when to stop a trial, what was found.

The caller passes the function that trains a trial.
"""
