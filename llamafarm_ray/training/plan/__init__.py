"""Every check and choice of a run before a worker starts."""
