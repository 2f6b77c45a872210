"""Sweeps: many trainings with different settings."""
