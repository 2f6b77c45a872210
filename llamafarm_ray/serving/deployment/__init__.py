"""Deployment on Ray Serve: replicas and their adapters, the router, scaling, cold starts and the rollout actor.

``replica`` is the common base of ``vllm_replica`` and ``engine_replica``, ``adapter_manager`` serves versions from the
registry, and ``reconciler`` keeps the registry's record of the application.
"""
