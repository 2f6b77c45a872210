"""Limits of namespaces: who sets them, what a registration may store, and what a forged one shows."""

import datetime as dt

import pytest
from model_files import store_note

from llamafarm_ray.errors import AccessDeniedError, InputError, PolicyError
from llamafarm_ray.registry import RegistryService, VersionRegistered
from llamafarm_ray.registry.commands import Purge, Register, Retire, SetQuota
from llamafarm_ray.registry.governance.access import Role
from llamafarm_ray.registry.history.snapshots import dump_state, load_state
from llamafarm_ray.registry.history.verify import verify
from llamafarm_ray.registry.log import Change, CommitLog
from llamafarm_ray.registry.usage import Quota
from llamafarm_ray.types import ModelKind, ModelRef


def register(registry, name, number, size_bytes, note=None):
    manifest = store_note(registry.content, note or f"{name}:{number}")
    registry.submit(Register(name, ModelKind.ADAPTER, manifest, size_bytes, number))
    return manifest


def test_files_beyond_the_quota_are_refused_with_the_bytes(registry):
    registry.submit(SetQuota("team", Quota(storage_bytes=100)))
    register(registry, "team/bot", "1.0.0", 60)
    with pytest.raises(PolicyError, match=r"'team' may keep 100 bytes, has 60, and this version has 41 more\. Retire"):
        register(registry, "team/other", "1.0.0", 41)
    register(registry, "team/other", "1.0.0", 40)
    register(registry, "bot", "1.0.0", 1000)
    register(registry, "elsewhere/bot", "1.0.0", 1000)


def test_files_that_are_there_need_no_room_and_purged_ones_give_it_back(registry):
    registry.submit(SetQuota("team", Quota(storage_bytes=100)))
    register(registry, "team/bot", "1.0.0", 100, note="same")
    register(registry, "team/twin", "1.0.0", 100, note="same")
    ref = ModelRef.parse("team/bot:1.0.0")
    registry.submit(Retire(ref))
    registry.submit(Purge(ref))
    with pytest.raises(PolicyError):
        register(registry, "team/new", "1.0.0", 1)  # the twin keeps the files
    for twin in (Retire, Purge):
        registry.submit(twin(ModelRef.parse("team/twin:1.0.0")))
    register(registry, "team/new", "1.0.0", 100)


def test_a_quota_is_replaced_as_a_whole_and_survives_in_snapshots(registry):
    assert registry.submit(SetQuota("", Quota(tokens_per_day=5))).events
    assert not registry.submit(SetQuota("", Quota(tokens_per_day=5))).events
    registry.submit(SetQuota("", Quota(device_hours=2.5)))
    state = registry.refresh()
    assert state.quota("") == Quota(device_hours=2.5)
    assert state.quota("team").is_empty
    assert load_state(dump_state(state)).quota("") == Quota(device_hours=2.5)
    assert RegistryService(registry.home).state.quota("") == Quota(device_hours=2.5)


@pytest.mark.parametrize("namespace", ["a/b", "-", "*", "a b"])
def test_a_namespace_that_is_no_name_is_refused(registry, namespace):
    with pytest.raises(InputError, match="namespace"):
        registry.submit(SetQuota(namespace, Quota(tokens_per_day=5)))


def test_who_has_a_limit_can_not_raise_it(registry):
    root = RegistryService(registry.home, token=registry.add_principal("root", {"*": Role.ADMIN}))
    lead = RegistryService(registry.home, token=root.add_principal("lead", {"team": Role.ADMIN}))
    with pytest.raises(AccessDeniedError, match="'lead' may not set policy"):
        lead.submit(SetQuota("team", Quota()))


def test_a_registration_beyond_the_quota_is_forged(registry):
    registry.submit(SetQuota("team", Quota(storage_bytes=10)))
    manifest = store_note(registry.content, "large")
    event = VersionRegistered(
        model="team/bot", version="1.0.0", kind=ModelKind.ADAPTER, manifest=manifest, size_bytes=11
    )
    change = Change(time=dt.datetime.now(dt.UTC), principal="eve", idempotency_key="e", events=(event,))
    CommitLog(registry.home).append(registry.head, [change])
    assert "may keep 10 bytes" in verify(registry.home, blobs=False).problems[0]
