"""Watchers get what they miss, in bytes that are one and the same for all who know the same."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from model_files import store_note

from llamafarm_ray.registry import RegistryService
from llamafarm_ray.registry.commands import Register
from llamafarm_ray.registry.updates import Update, UpdateFeed
from llamafarm_ray.storage import Location
from llamafarm_ray.types import ModelKind

LONG_S = 60.0


@pytest.fixture
def home(tmp_path):
    return Location(tmp_path / "home")


@pytest.fixture
def register(home):
    """Register a version past the service that is watched; returns the registry that did it."""
    registry = RegistryService(home)
    manifest = store_note(registry.content, "note")

    def commit():
        registry.submit(Register("bot", ModelKind.ADAPTER, manifest, 1))
        return registry

    return commit


def fed(home, scenario):
    """Run a scenario with a feed of the home."""
    service = RegistryService(home)
    with ThreadPoolExecutor(4) as threads:
        feed = UpdateFeed(service, threads, 0.01)
        service.on_commit(feed.announce)
        asyncio.run(scenario(feed))


def known(registry):
    return registry.state.sequence, registry.state.last_key


def test_all_who_wait_get_the_same_bytes_of_a_commit_that_another_process_made(home, register):
    registry = register()
    before = known(registry)

    async def scenario(feed):
        waiting = [asyncio.create_task(feed.after(*before, LONG_S)) for _ in range(200)]
        await asyncio.sleep(0)
        await asyncio.to_thread(register)
        sent = await asyncio.gather(*waiting)
        assert len({id(one) for one in sent}) == 1
        update = Update.of_bytes(sent[0])
        assert [commit.sequence for commit in update.commits] == [before[0] + 1]

    fed(home, scenario)


def test_who_knows_less_gets_more_and_who_knows_another_log_gets_the_whole_state(home, register):
    register()
    registry = register()

    async def scenario(feed):
        updates = [Update.of_bytes(await feed.after(*of, LONG_S)) for of in ((0, ""), (1, "a key of another log"))]
        assert [len(one.commits) for one in updates] == [2, 0]
        assert [one.is_replaced for one in updates] == [False, True]
        assert updates[1].state == registry.state

    fed(home, scenario)


def test_without_news_an_update_is_empty_and_the_next_commit_is_no_old_news(home, register):
    registry = register()

    async def scenario(feed):
        assert Update.of_bytes(await feed.after(*known(registry), 0.0)).is_empty
        before = known(registry)
        await asyncio.to_thread(register)
        assert len(Update.of_bytes(await feed.after(*before, 0.0)).commits) == 1

    fed(home, scenario)
