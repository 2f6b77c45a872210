"""Ray for the time of a command, and checks of a cluster."""
