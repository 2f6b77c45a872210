"""Usage says who asked which version for what, and recommendations what would be saved, and then what was."""

import datetime as dt
import json

import numpy as np
import pytest
from simulated_requests import write_page
from tiny_adapters import lora_tensors, write_adapter

from llamafarm_ray.cli.main import run
from llamafarm_ray.errors import NotFoundError
from llamafarm_ray.models.adapters.rank import used_rank
from llamafarm_ray.registry import DeploymentRecorded, RegistryService
from llamafarm_ray.registry.commands import RecordDeployment
from llamafarm_ray.serving.journal.usage import UsageKey, UsageTable, Used
from llamafarm_ray.storage import Location
from llamafarm_ray.types import ModelKind
from llamafarm_ray.workflows.accounting.recommend import recommend_savings
from llamafarm_ray.workflows.accounting.usage import last_days, report_usage

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
TODAY = dt.datetime.now(dt.UTC).date()
YESTERDAY = TODAY - dt.timedelta(days=1)
DAY_S = 86400.0


def at(day):
    """Return the first and the last second of a day."""
    start = dt.datetime.combine(day, dt.time(), dt.UTC).timestamp()
    return {"start_s": start, "end_s": start + DAY_S}


def used(*rows, hours_s=None):
    """Make a table of (version, key, route, requests, prompt tokens, answer tokens)."""
    table = UsageTable()
    for ref, principal, route, number, prompt, answer in rows:
        last_s = at(YESTERDAY)["start_s"] + 60
        table.add(UsageKey(ref, principal, route), Used(number, 0, prompt, answer, 0.1 * number, last_s))
    table.hours_s = hours_s or table.hours_s
    return table


@pytest.fixture
def registry(tmp_path):
    made = RegistryService(Location(tmp_path / "home"), principal="ann")
    base = tmp_path / "base"
    base.mkdir()
    (base / "weights").write_bytes(b"0" * 40_000)
    record = made.register(base, name="tiny", kind=ModelKind.BASE)
    for number, name in enumerate(("bot", "idle", "shop/bot")):
        folder = write_adapter(tmp_path / name, base, seed=number)
        made.register(folder, name=name, kind=ModelKind.ADAPTER, base_digest=record.registered.manifest)
    return made


def deploy(registry, *adapters, base=None):
    record = base or registry.resolve("tiny:1.0.0")
    told = DeploymentRecorded(
        application="app",
        base_model=record.registered.model,
        base_digest=record.registered.manifest,
        url="http://127.0.0.1:8000/v1",
        ray_address="127.0.0.1:6379",
        adapters=adapters,
    )
    registry.submit(RecordDeployment(told), reason="test")


def two_days(registry, make, *, replicas=1, **fields):
    for day in (YESTERDAY, TODAY):
        for number in range(replicas):
            write_page(registry.home, {}, usage=make(), day=day, replica=f"r{number}", **at(day), **fields)


def kinds(found):
    return {(one.kind, one.subject) for one in found}


def test_usage_is_added_up_over_replicas_and_days_by_what_is_asked(registry):
    deploy(registry, "bot:1.0.0", "idle:1.0.0")
    rows = [
        ("bot:1.0.0", "ben", CHAT, 10, 100, 50),
        ("shop/bot:1.0.0", "ann", TEXT, 5, 100, 50),
        ("tiny", "", CHAT, 1, 0, 0),
    ]
    two_days(registry, lambda: used(*rows), replicas=2, num_cpus=3)
    found = {row.name: row for row in report_usage(registry, since=last_days(7)).rows}
    assert set(found) == {"bot:1.0.0", "shop/bot:1.0.0", "tiny", "idle:1.0.0"}
    bot = found["bot:1.0.0"]
    assert (bot.used.num_requests, bot.used.prompt_tokens, bot.principals) == (40, 400, {"ben"})
    assert bot.cpu_s == pytest.approx(4 * DAY_S * 3 / 2)
    assert (found["idle:1.0.0"].is_deployed, found["idle:1.0.0"].last) == (True, None)
    assert found["bot:1.0.0"].storage_bytes == registry.resolve("bot:1.0.0").registered.size_bytes
    for by, names in (
        ("namespace", {"", "shop"}),
        ("key", {"ben", "ann", ""}),
        ("route", {CHAT, TEXT}),
        ("model", {"bot", "shop/bot", "tiny"}),
    ):
        assert {row.name for row in report_usage(registry, since=last_days(7), by=by).rows} == names
    assert [row.name for row in report_usage(registry, ["bot"], since=last_days(7)).rows] == ["bot:1.0.0"]
    assert report_usage(registry, ["bot"], since=TODAY).rows[0].used.num_requests == 20
    with pytest.raises(NotFoundError, match="'bit'"):
        report_usage(registry, ["bit"], since=last_days(7))


def test_an_idle_adapter_is_to_be_undeployed_and_then_saves_its_bytes_on_each_replica(registry):
    deploy(registry, "bot:1.0.0", "idle:1.0.0")
    make = lambda: used(("bot:1.0.0", "ben", CHAT, 10, 100, 50), ("tiny", "", CHAT, 9, 900, 50))  # noqa: E731
    two_days(registry, make, replicas=1)
    (found,) = [one for one in recommend_savings(registry) if one.kind == "undeploy"]
    size = registry.resolve("idle:1.0.0").registered.size_bytes
    assert (found.subject, found.predicted.amount, found.measured) == ("idle:1.0.0", size, None)
    deploy(registry, "bot:1.0.0")
    assert recommend_savings(registry) == [] or kinds(recommend_savings(registry)).isdisjoint(
        {("undeploy", "idle:1.0.0")}
    )
    later = dt.datetime.now(dt.UTC).timestamp() + 60
    write_page(registry.home, {}, usage=make(), day=TODAY, replica="new", start_s=later, end_s=later + 60)
    (found,) = [one for one in recommend_savings(registry) if one.kind == "undeploy"]
    assert found.measured.amount == size


def test_a_lone_hot_adapter_is_worth_merging_and_the_time_for_a_token_is_measured(registry, tmp_path):
    deploy(registry, "bot:1.0.0")
    two_days(registry, lambda: used(("bot:1.0.0", "ben", CHAT, 900, 9000, 9000), ("tiny", "", CHAT, 1, 9, 9)))
    (found,) = [one for one in recommend_savings(registry) if one.kind == "merge"]
    assert found.subject == "bot:1.0.0"
    assert 0 < found.predicted.amount < 50
    merged = tmp_path / "merged"
    merged.mkdir()
    (merged / "weights").write_bytes(b"1" * 40_000)
    manifest = registry.resolve("bot:1.0.0").registered.manifest
    record = registry.register(merged, name="whole", kind=ModelKind.MERGED, derived_from=(manifest,))
    deploy(registry, base=record)
    later = dt.datetime.now(dt.UTC).timestamp() + 60
    faster = UsageTable()
    faster.add(UsageKey("whole", "ben", CHAT), Used(100, 0, 1000, 1000, 5.0, later))
    write_page(registry.home, {}, usage=faster, day=TODAY, replica="new", start_s=later, end_s=later + 60)
    (found,) = [one for one in recommend_savings(registry) if one.kind == "merge"]
    assert found.measured.amount == pytest.approx(50)


def test_replicas_that_the_busiest_hour_does_not_need_are_too_many(registry):
    deploy(registry, "bot:1.0.0")
    busy = [0.0] * 23 + [3600.0 * 5]
    rows = (("bot:1.0.0", "ben", CHAT, 10, 100, 50), ("tiny", "", CHAT, 9, 900, 50))
    two_days(registry, lambda: used(*rows, hours_s=list(busy)), replicas=4)
    (found,) = [one for one in recommend_savings(registry) if one.kind == "fewer_replicas"]
    assert (found.goal, found.predicted.amount) == (3, pytest.approx(24.0))
    busy[-1] = 3600.0 * 8
    two_days(registry, lambda: used(*rows, hours_s=list(busy)), replicas=4)
    assert [one for one in recommend_savings(registry) if one.kind == "fewer_replicas" and one.measured is None] == []


def test_less_than_a_day_recommends_nothing(registry):
    deploy(registry, "bot:1.0.0", "idle:1.0.0")
    start = at(TODAY)["start_s"]
    write_page(registry.home, {}, usage=used(("tiny", "", CHAT, 1, 9, 9)), start_s=start, end_s=start + 3600)
    assert recommend_savings(registry) == []


def test_a_rank_is_enough_if_it_keeps_nearly_all_of_each_update(tmp_path):
    tensors = lora_tensors(rank=8)
    for name in list(tensors):
        if name.endswith("lora_A.weight"):  # eight rows that are two rows and their multiples
            two = tensors[name][:2]
            tensors[name] = np.concatenate([two * scale for scale in (1, 2, 3, 4)]).astype(np.float32)
    low = used_rank(write_adapter(tmp_path / "low", tmp_path, rank=8, tensors=tensors))
    assert (low.rank, low.enough) == (8, 2)
    full = used_rank(write_adapter(tmp_path / "full", tmp_path, rank=8))
    assert full.enough > 4


def test_the_verbs_print_tables_and_json(registry, capsys):
    deploy(registry, "bot:1.0.0", "idle:1.0.0")
    two_days(registry, lambda: used(("bot:1.0.0", "ben", CHAT, 10, 100, 50), ("tiny", "", CHAT, 9, 900, 50)))
    home = ["--home", registry.home.uri]
    assert run(["models", "usage", *home]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("bot:1.0.0", "ben", "never"))
    assert run(["models", "usage", *home, "--by", "key", "--json"]) == 0
    assert {row["name"] for row in json.loads(capsys.readouterr().out)["rows"]} == {"ben", ""}
    assert run(["models", "recommend", *home]) == 0
    assert "idle:1.0.0: no request in 2 days on record" in capsys.readouterr().out
    assert run(["models", "recommend", *home, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["recommendations"]
    assert ("undeploy", "idle:1.0.0") in {(one["kind"], one["subject"]) for one in told}
