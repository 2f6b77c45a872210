"""Resolution of a request's model to one version, and the choice of a replica for it.

``resolution`` turns a name into an immutable version, ``traffic_split`` assigns callers to the variants of a rollout.
``affinity`` ranks replicas for a version, and ``affinity_router`` is Serve's request router by that rank. ``ingress``
answers the proxy, and ``signed_header`` carries the router's decision to the replica.
"""
