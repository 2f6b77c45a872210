"""Settings that serve a model best on a device: measured on this machine, predicted for others."""
