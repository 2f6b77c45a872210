"""A name in a request means exactly one version, or a clear error."""

import datetime as dt

import pytest

from llamafarm_ray.errors import InputError, NotFoundError
from llamafarm_ray.registry import Change, Commit, RegistryState, VersionRegistered
from llamafarm_ray.registry.events import AliasMoved
from llamafarm_ray.registry.log import GENESIS
from llamafarm_ray.serving.resolution import resolve, served_models
from llamafarm_ray.types import Digest, ModelKind

BASE, OTHER = Digest.of(b"base"), Digest.of(b"other")
ONE, TWO = Digest.of(b"1"), Digest.of(b"2")


def adapter(model, version, manifest, base=BASE):
    return VersionRegistered(
        model=model, version=version, kind=ModelKind.ADAPTER, manifest=manifest, size_bytes=1, base_digest=base
    )


@pytest.fixture
def state():
    events = (
        adapter("bot", "1.0.0", ONE),
        adapter("bot", "1.1.0", TWO),
        AliasMoved(model="bot", alias="production", version="1.0.0"),
        adapter("foreign", "1.0.0", ONE, base=OTHER),
        VersionRegistered(model="plain", version="1.0.0", kind=ModelKind.BASE, manifest=BASE, size_bytes=1),
    )
    now = dt.datetime.now(dt.UTC)
    change = Change(time=now, principal="x", idempotency_key="k", events=events)
    return RegistryState().after(Commit(sequence=1, previous=GENESIS.digest, time=now, changes=(change,)))


def target(state, model):
    return resolve(model, state, base_name="tiny", base_digest=BASE)


@pytest.mark.parametrize(
    ("model", "version", "digest"),
    [
        ("bot", "bot:1.0.0", ONE),
        ("bot@production", "bot:1.0.0", ONE),
        ("bot:1.1.0", "bot:1.1.0", TWO),
        (f"bot:1.1.0#{TWO.short}", "bot:1.1.0", TWO),
        ("tiny", "tiny", None),
    ],
)
def test_each_way_of_naming_gives_its_version(state, model, version, digest):
    found = target(state, model)
    assert (found.ref, found.digest) == (version, digest)
    assert found.engine_name == (f"{version}#{digest.short}" if digest else "tiny")


def test_what_a_response_reported_can_be_asked_for_again(state):
    first = target(state, "bot")
    assert target(state, first.engine_name) == first


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("bott", "Did you mean bot"),
        ("bot:3.0.0", "no version 3.0.0"),
        ("bot@nope", "no alias 'nope'"),
        ("bot:1.0.0#ffffffffffff", "does not exist"),
        ("foreign", "no adapter of 'tiny'"),
        ("plain", "no adapter of 'tiny'"),
    ],
)
def test_what_is_not_served_is_not_found(state, model, says):
    with pytest.raises(NotFoundError, match=says):
        target(state, model)


@pytest.mark.parametrize("model", ["../x", "bot:1", "bot@", "a b", "bot\n", "bot:1.0.0\n", "ü"])
def test_what_is_no_name_is_the_clients_mistake(state, model):
    with pytest.raises(InputError):
        target(state, model)


def test_only_this_bases_adapters_are_listed(state):
    names = served_models(state, base_name="tiny", base_digest=BASE)
    assert names == ["tiny", "bot", "bot@production", "bot:1.0.0", "bot:1.1.0"]
