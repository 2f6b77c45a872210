"""Observers of a run: trackers, alerts, history, meters and the report."""
