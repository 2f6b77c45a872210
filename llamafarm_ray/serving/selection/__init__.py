"""Selection of the best model for a task, over all applications of a registry.

``model_selection`` applies limits and ranks, ``catalog`` describes an application's own models, ``peers`` finds other
applications, and ``latencies`` measures versions over all replicas.
"""
