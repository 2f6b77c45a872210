"""Deployments and trainings as manifests for Kubernetes, and their way there."""

from llamafarm_ray.workflows.kubernetes.job import ray_job
from llamafarm_ray.workflows.kubernetes.pods import SECRET, as_yaml
from llamafarm_ray.workflows.kubernetes.service import ray_service

__all__ = ["SECRET", "as_yaml", "ray_job", "ray_service"]
