"""Usage and its cost."""
