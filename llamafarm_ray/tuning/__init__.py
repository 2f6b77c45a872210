"""Sweeps on Ray Tune: what to try, when to stop a trial, what was found. How a trial trains is handed in."""
