"""Cost says what each model used and what that costs; quotas refuse a training when the month's hours are gone."""

import datetime as dt
import json

import pytest
import yaml
from tiny_model import make_tiny_model

from llamafarm_ray.cli.main import run
from llamafarm_ray.config import parse_config
from llamafarm_ray.errors import InputError, PolicyError
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.registry.commands import Purge, Retire
from llamafarm_ray.registry.governance.access import Role
from llamafarm_ray.registry.usage import CPU, Amounts, Quota, WorkKey, write_page
from llamafarm_ray.storage import Location
from llamafarm_ray.training.estimate import read_tables
from llamafarm_ray.types import ModelKind, ModelRef
from llamafarm_ray.workflows.accounting.cost import report_cost
from llamafarm_ray.workflows.governance.quotas import parse_namespace, parse_quota, quota_use, set_quota
from llamafarm_ray.workflows.training.train import TrainingRun
from llamafarm_ray.workflows.tuning.tune import TuningRun

TODAY = dt.datetime.now(dt.UTC).date()
GIB = 1024**3
ROW = '{"messages": [{"role": "user", "content": "Q%d?"}, {"role": "assistant", "content": "A."}]}\n'


@pytest.fixture
def registry(tmp_path, monkeypatch):
    monkeypatch.delenv("LLAMAFARM_TOKEN", raising=False)
    return RegistryService(Location(tmp_path / "home"), principal="ann")


@pytest.fixture
def used(registry):
    """A day's use of two namespaces."""
    rows = [
        (WorkKey("", "bot", "train", CPU), Amounts(3 * 3600.0)),
        (WorkKey("team", "bot", "train", "L4"), Amounts(2 * 3600.0)),
        (WorkKey("team", "bot", "tune", "L4"), Amounts(4 * 3600.0)),
        (WorkKey("team", "bot", "serve", "L4"), Amounts(3600.0, 5000)),
        (WorkKey("team", "qa", "dataset", CPU), Amounts(1800.0)),
        (WorkKey("", "probed", "evaluate", CPU), Amounts(900.0)),
        (WorkKey("", "app", "idle", CPU), Amounts(7200.0)),
    ]
    write_page(registry.home, TODAY, "writer", rows)
    return registry


@pytest.fixture
def prices(tmp_path):
    file = tmp_path / "prices.yaml"
    note = {"as_of": "2026-11", "source": "our contract", "cpu_hour": 0.05, "gib_month": 0.02}
    file.write_text(yaml.safe_dump({"prices": note, "devices": {"l4": {"price": 0.8}}}))
    return file


def rows_of(report):
    return {(row.namespace, row.name): row for row in report.rows}


def test_amounts_are_by_namespace_and_model_and_priced_where_a_price_is_known(used, prices):
    report = report_cost(used, since=TODAY, tables=read_tables(prices))
    rows = rows_of(report)
    team = rows["team", "bot"]
    assert (team.hours("train", "tune"), team.hours("serve"), team.num_tokens) == (6.0, 1.0, 5000)
    assert team.cost == pytest.approx(7 * 0.8)
    assert rows["", "bot"].cost == pytest.approx(3 * 0.05)
    assert rows["team", "qa"].cost == pytest.approx(0.5 * 0.05)
    assert report.cost == pytest.approx(5.6 + 0.15 + 0.025 + 0.0125 + 0.1)
    assert [row.cost for row in report.rows] == sorted((row.cost for row in report.rows), reverse=True)
    assert "our contract" in report.price_note
    assert report_cost(used, since=TODAY + dt.timedelta(days=1), tables=read_tables(prices)).rows == []


def test_without_a_price_there_are_amounts_and_no_money(used):
    row = rows_of(report_cost(used, since=TODAY, tables=read_tables()))["", "bot"]
    assert (row.cost, row.unpriced, row.hours()) == (None, ["CPU"], 3.0)


def test_devices_have_the_prices_of_their_ray_names():
    tables = read_tables()
    assert tables.price_of("L4") == tables.device("l4").price
    assert tables.price_of("A100-80G") == tables.device("a100-80gb").price
    assert tables.price_of("V100") == tables.device("v100-16gb").price
    assert [tables.price_of(name) for name in ("A100", "L40", "GPU", "CPU")] == [None] * 4


def test_storage_counts_from_registration_for_as_long_as_files_are_kept(registry, tmp_path, prices):
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "weights").write_bytes(b"0" * 4096)
    for name in ("base", "twin", "base"):
        registry.register(folder, name=name, kind=ModelKind.BASE)
    size = registry.resolve("base:1.0.0").registered.size_bytes
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=15)
    report = report_cost(registry, since=TODAY, tables=read_tables(prices), now=later)
    row = rows_of(report)["", "base"]
    assert row.storage_bytes == size
    assert row.gib_months == pytest.approx(size / GIB / 2, rel=0.01)
    assert row.cost == pytest.approx(row.gib_months * 0.02)
    early = later.date() - dt.timedelta(days=3)
    assert rows_of(report_cost(registry, since=early, tables=read_tables(), now=later))["", "base"].gib_months < (
        row.gib_months / 3
    )
    for command in (Retire, Purge):
        registry.submit(command(ModelRef.parse("twin:1.0.0")))
    assert ("", "twin") not in rows_of(report_cost(registry, since=TODAY, tables=read_tables()))


def test_a_caller_sees_the_namespaces_that_it_may_read(used):
    root = RegistryService(used.home, token=used.add_principal("root", {"*": Role.ADMIN}))
    viewer = RegistryService(used.home, token=root.add_principal("vic", {"team": Role.VIEWER}))
    assert {row.namespace for row in report_cost(viewer, since=TODAY, tables=read_tables()).rows} == {"team"}


def configured(tmp_path, name):
    make_tiny_model(tmp_path / "tiny")
    (tmp_path / "qa.jsonl").write_text("".join(ROW % number for number in range(9)))
    dataset = {"path": str(tmp_path / "qa.jsonl"), "validation": {"split_ratio": 0.2}}
    tuning = {"parameters": {"fine_tuning.parameters.r": {"choice": [4, 8]}}}
    return parse_config({"base_model": str(tmp_path / "tiny"), "name": name, "dataset": dataset, "tuning": tuning})


def test_when_the_months_hours_are_used_up_no_training_and_no_sweep_begins(used, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    set_quota(used, "team", Quota(device_hours=7.5))
    for work in (TrainingRun, TuningRun):
        with pytest.raises(PolicyError, match=r"'team' may use 7.5 device hours a month, and has used 7.500.") as error:
            work.prepare(configured(tmp_path, "team/bot"), used)
        assert "registry quota set team --device-hours" in error.value.hint
    TrainingRun.prepare(configured(tmp_path, "bot"), used, output=tmp_path / "out")
    set_quota(used, "team", Quota(device_hours=8))
    TrainingRun.prepare(configured(tmp_path, "team/bot"), used, output=tmp_path / "out")


def test_limits_are_read_as_people_write_them():
    assert parse_quota(1.5, 10, "2Gi") == Quota(device_hours=1.5, tokens_per_day=10, storage_bytes=2 * GIB)
    assert (parse_namespace("-"), parse_namespace("team-a")) == ("", "team-a")
    for wrong in ("much", "-1"):
        with pytest.raises(InputError, match="--storage"):
            parse_quota(None, None, wrong)
    with pytest.raises(InputError, match="device_hours"):
        parse_quota(float("nan"), None, None)
    with pytest.raises(InputError, match="is no namespace"):
        parse_namespace("a/b")


def test_the_verbs_print_tables_and_json(used, prices, capsys):
    home = ["--home", used.home.uri]
    assert run(["cluster", "cost", *home, "--prices", str(prices)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    words = ("team", "5,000", "eval h", "0.250", "app (idle)", "US$ 5.89 in all", "our contract")
    assert all(word in shown for word in words)
    assert run(["cluster", "cost", *home]) == 0
    assert "Without a price: CPU." in capsys.readouterr().out
    assert run(["cluster", "cost", *home, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {row["name"]: row["cost_usd"] for row in told["rows"]}["qa"] is None
    assert run(["registry", "quota", "set", "team", "--device-hours", "9", "--storage", "1Gi", *home]) == 0
    assert "9 device hours a month" in capsys.readouterr().out
    assert run(["registry", "quota", "show", *home, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["team"]["used"] == quota_use(used, "team").to_dict()["used"]
    assert run(["registry", "quota", "show", *home]) == 0
    assert "7.500" in capsys.readouterr().out
    assert run(["registry", "audit", *home]) == 0
    assert "quota set" in capsys.readouterr().out
    assert run(["registry", "quota", "set", "team", *home]) == 2
    assert run(["registry", "quota", "set", "team", "--clear", *home]) == 0
    capsys.readouterr()
    assert run(["registry", "quota", "show", *home]) == 0
    assert "No namespace has limits." in capsys.readouterr().out
