"""The registry through the cluster's actor: the actor, its client, its metrics and a live view."""
