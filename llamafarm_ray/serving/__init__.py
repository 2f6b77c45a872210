"""Adapters of one base model behind an OpenAI-compatible endpoint: Ray Serve, HAProxy and vLLM.

``application`` builds the Serve application. A request passes ``routing`` (HAProxy asks for a replica), ``gateway``
(keys, limits, queue) and one of ``engines``; ``adapters`` loads what it needs. ``deployment`` puts these on Ray Serve,
``ray_serve`` asks the running replicas. ``selection`` chooses a model for a task, ``rollouts`` moves traffic between
versions, ``telemetry`` and ``journal`` measure and record requests, ``health`` watches versions in production, and
``optimize`` finds the fastest settings. Imports run downward; pyproject.toml holds the order.
"""
