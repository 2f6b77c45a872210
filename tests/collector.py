"""A collector, and what happens beside it."""

import datetime as dt

from llamafarm_ray.registry import DeploymentRecorded, RegistryService
from llamafarm_ray.registry.commands import RecordDeployment
from llamafarm_ray.registry.gc import collect

NOW = dt.timedelta(0)


def stored(registry):
    return {(blob.digest, blob.generation) for blob in registry.content.stored()}


def run(registry, **options):
    return collect(registry, **{"grace": NOW, "dry_run": False, **options})


def deployed_base(digest):
    return RecordDeployment(
        DeploymentRecorded(application="app", base_model="b", base_digest=digest, url="http://x", ray_address="")
    )


def late(registry, monkeypatch, act):
    """Have something happen between a collector's look and its commit."""
    submit, done = registry.submit, []

    def interrupted(command, **options):
        if not done:
            done.append(act())
        return submit(command, **options)

    monkeypatch.setattr(registry, "submit", interrupted)


def registry_of(registry):
    """Another process's registry."""
    return RegistryService(registry.home)


def while_marking(registry, monkeypatch, act, *, times=1):
    """Have something happen after a collector looked at the versions, before it reads their manifests."""
    leased, done = registry.content.leased, []

    def interrupted():
        if len(done) < times:
            done.append(act())
        return leased()

    monkeypatch.setattr(registry.content, "leased", interrupted)
