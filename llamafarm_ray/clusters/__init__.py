"""Ray itself: the local one of a command, the one that stays (`llamafarm up`), and the checks of a cluster."""
