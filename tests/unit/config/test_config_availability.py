"""What has no engine yet is refused by the verb that would need it, all of it at once."""

from pathlib import Path
from typing import Any, cast

import pytest

from llamafarm_ray.config import Config, load_config, parse_config, refuse_unavailable, resolved, unavailable
from llamafarm_ray.config.availability import GAPS
from llamafarm_ray.config.layout import layout, parse_path
from llamafarm_ray.errors import InputError, UnsupportedError

SEEDS = Path(__file__).parent / "data" / "seeds"
VERBS = ("create-dataset", "train")
VERB_OF_STEP = {"build": "create-dataset", "training": "train"}
ASKING = {
    # A value that asks for what isn't there.
    "dataset.source.type": "synthetic",
    "dataset.preprocessing.qa_generation.enabled": False,
    "dataset.synthetic_generation.enabled": True,
    "dataset.augmentation": True,
}


def nest(path: Any, value: Any) -> Any:
    for name in reversed(path):
        value = {name: value}
    return value


def refused(config: Any, verb: Any) -> Any:
    try:
        refuse_unavailable(config, verb)
    except UnsupportedError as error:
        return [line.strip().split(":")[0] for line in str(error).splitlines()[1:]]
    return []


def test_the_defaults_ask_for_nothing_that_is_missing() -> None:
    for verb in VERBS:
        assert refused(Config(), verb) == []
        assert refused(parse_config(resolved(Config())), verb) == []


@pytest.mark.parametrize("gap", GAPS, ids=lambda gap: gap.key)
def test_each_gap_is_refused_by_its_verb_and_by_no_other(gap: Any) -> None:
    path = parse_path(gap.key)
    assert path in layout().leaves or path in layout().sections
    config = parse_config(nest(path, ASKING[gap.key]))
    verb = VERB_OF_STEP[gap.step]
    assert refused(config, verb) == [gap.key]
    others = set(VERBS) - {verb} - ({"train"} if gap.step == "build" else set())
    assert all(refused(config, other) == [] for other in others)


def test_every_refusal_is_tested() -> None:
    assert {gap.key for gap in GAPS} == set(ASKING)


@pytest.mark.parametrize("gap", [gap for gap in GAPS if gap.available], ids=lambda gap: gap.key)
def test_what_is_available_is_let_through(gap: Any) -> None:
    for value in gap.available:
        config = parse_config(nest(parse_path(gap.key), value))
        for verb in VERBS:
            assert refused(config, verb) == []


def test_the_unified_seed_is_refused_key_by_key_as_each_verb_needs_it() -> None:
    config = load_config(SEEDS / "unified.json")
    assert refused(config, "create-dataset") == []
    assert refused(config, "train") == []


def test_what_each_verb_would_refuse_is_told_without_refusing() -> None:
    config = load_config(SEEDS / "unified.json")
    told = unavailable(config)
    assert {verb: [line.split(":")[0] for line in lines] for verb, lines in told.items()} == {
        verb: keys for verb in VERBS if (keys := refused(config, verb))
    }
    assert unavailable(Config()) == {}


def test_training_on_a_dataset_that_exists_needs_no_building() -> None:
    config = load_config(SEEDS / "unified.json", ["dataset.path=rag_qa.json"])
    assert refused(config, "train") == []


def test_an_unknown_verb_is_an_error() -> None:
    with pytest.raises(InputError, match="evalute"):
        refuse_unavailable(Config(), cast("Any", "evalute"))
