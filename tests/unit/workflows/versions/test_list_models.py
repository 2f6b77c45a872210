"""Lists hold what the filters ask for, now and then."""

import pytest

from llamafarm_ray.errors import InputError, NotFoundError
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.storage import Location
from llamafarm_ray.types import ModelKind
from llamafarm_ray.workflows.versions.list_models import list_versions
from llamafarm_ray.workflows.versions.metrics import flat_metrics, main_metric


@pytest.fixture
def registry(tmp_path):
    made = RegistryService(Location(tmp_path / "home"), principal="ann")
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    register = lambda **facts: made.register(folder, kind=ModelKind.ADAPTER, **facts)  # noqa: E731
    register(name="bot", version="1.0.0", metrics={"bench": {"mmlu": 0.5}}, tags=("old",), domain="medical")
    register(name="bot", version="1.10.0", metrics={"bench": {"mmlu": 0.7}}, capabilities=("chat",))
    register(name="bot", version="1.9.0", metrics={"accuracy": 0.9})
    register(name="law/bot", version="1.0.0", method="lora", run="r1")
    return made


def refs(registry, *filters, **options):
    return [row.record.ref for row in list_versions(registry, filters=filters, **options)]


def test_the_highest_number_comes_first(registry):
    assert refs(registry) == ["bot:1.10.0", "bot:1.9.0", "bot:1.0.0", "law/bot:1.0.0"]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (["bench.mmlu>=0.5"], ["bot:1.10.0", "bot:1.0.0"]),
        (["bench.mmlu>0.5"], ["bot:1.10.0"]),
        (["bench.mmlu<0.7"], ["bot:1.0.0"]),
        (["bench.mmlu <= 0.7", "tag=old"], ["bot:1.0.0"]),
        (["accuracy>-1"], ["bot:1.9.0"]),
        (["domain=medical"], ["bot:1.0.0"]),
        (["capability=chat"], ["bot:1.10.0"]),
        (["tags=old", "model=bot"], ["bot:1.0.0"]),
        (["alias=production"], ["bot:1.9.0"]),
        (["method=lora", "run=r1", "principal=ann"], ["law/bot:1.0.0"]),
        (["method=lora", "run=r2"], []),
        (["version=1.0.0"], ["bot:1.0.0", "law/bot:1.0.0"]),
        (["status=deprecated"], []),
        (["bench.mmlu>=0.5 capability=chat"], ["bot:1.10.0"]),
        (["kind=LoRA  run = r1"], ["law/bot:1.0.0"]),
        (["domain=medical licence="], ["bot:1.0.0"]),
        (["size>=1k"], []),
        (["size<1k model=law/bot"], ["law/bot:1.0.0"]),
    ],
)
def test_all_filters_must_hold(registry, filters, found):
    registry.promote("bot:1.9.0", "production")
    assert refs(registry, *filters) == found


def test_results_recorded_later_count(registry):
    registry.record_metrics("bot:1.0.0", {"bench": {"mmlu": 0.95}})
    assert refs(registry, "bench.mmlu>0.9") == ["bot:1.0.0"]


def test_tags_are_those_of_now(registry):
    registry.tag("bot:1.0.0", add=("new",), remove=("old",))
    assert refs(registry, "tag=new") == ["bot:1.0.0"]
    assert refs(registry, "tag=old") == []


def test_a_namespace_is_listed_alone(registry):
    assert refs(registry, namespace="law") == ["law/bot:1.0.0"]


def test_what_ended_is_left_out_unless_asked_for(registry):
    registry.retire("bot:1.0.0")
    assert "bot:1.0.0" not in refs(registry)
    assert "bot:1.0.0" in refs(registry, include_ended=True)
    assert refs(registry, "status=retired") == ["bot:1.0.0"]


def test_a_list_of_then_holds_what_there_was(registry):
    then = registry.state.time
    registry.retire("bot:1.0.0")
    registry.promote("bot:1.9.0", "production")
    assert "bot:1.0.0" in refs(registry, at=then)
    assert refs(registry, "alias=production", at=then) == []


@pytest.mark.parametrize(("filter_", "meant"), [("bench.mmul>0.5", r"bench\.mmlu"), ("contxt>=8192", "context")])
def test_a_result_nobody_measured_is_a_typing_error(registry, filter_, meant):
    with pytest.raises(NotFoundError, match=meant):
        list_versions(registry, filters=[filter_])


def test_a_value_may_have_spaces_in_it(registry, tmp_path):
    registry.register(tmp_path / "files", name="cat", version="1.0.0", kind=ModelKind.ADAPTER, domain="customer care")
    assert refs(registry, "domain=customer care kind=adapter") == ["cat:1.0.0"]


@pytest.mark.parametrize(
    "text", ["domain", "=x", "accuracy>", "accuracy>high", "accuracy>>1", "colour=red", "", "context>=many", "size<8X"]
)
def test_what_is_no_filter_is_refused(registry, text):
    with pytest.raises(InputError):
        list_versions(registry, filters=[text])


def test_the_results_shown_are_those_asked_for_else_the_most_telling(registry):
    [row] = list_versions(registry, filters=["accuracy>0.1"])
    assert row.shown_metrics == (("accuracy", 0.9),)
    [row] = list_versions(registry, filters=["version=1.10.0"])
    assert row.shown_metrics == (("bench.mmlu", 0.7),)
    measured = {"train_loss": 0.1, "b": {"baseline": {"accuracy": 0.2}, "accuracy": 0.8, "n": True, "note": "x"}}
    assert main_metric(measured) == ("b.accuracy", 0.8)
    assert flat_metrics(measured) == {"train_loss": 0.1, "b.baseline.accuracy": 0.2, "b.accuracy": 0.8}
