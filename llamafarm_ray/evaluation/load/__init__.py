"""Simulation of production traffic against an OpenAI-compatible endpoint."""
