"""The schema of editors knows every accepted spelling; every key says what it is."""

import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from llamafarm_ray.config import ALIASES, Config, json_schema, load_config, resolved
from llamafarm_ray.config.aliases.alias import NOTHING
from llamafarm_ray.config.layout import layout
from llamafarm_ray.config.schema import _reference

SEEDS = Path(__file__).parent / "data" / "seeds"


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = json.loads(json.dumps(json_schema()))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def nest(path: Any, value: Any) -> Any:
    for name in reversed(path):
        value = {name: value}
    return value


def test_the_schema_says_which_draft_it_is(validator: Any) -> None:
    assert validator.schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert validator.schema["$id"].startswith("urn:")


@pytest.mark.parametrize("path", sorted(SEEDS.glob("*.json")), ids=lambda path: path.stem)
def test_the_seeds_are_valid_as_written_and_resolved(validator: Any, path: Any) -> None:
    validator.validate(json.loads(path.read_text()))
    validator.validate(resolved(load_config(path)))


def test_the_defaults_are_valid(validator: Any) -> None:
    validator.validate(resolved(Config()))
    validator.validate({})
    validator.validate({"fine_tuning": None, "dataset": "data.jsonl"})
    validator.validate({"dataset": {"source": "rag_documents"}})


@pytest.mark.parametrize("alias", ALIASES, ids=lambda alias: f"{alias.name}->{alias.target}")
def test_every_spelling_is_in_the_schema(validator: Any, alias: Any) -> None:
    for section in alias.sections:
        for written, meant in alias.values.items():
            table = nest((*section, alias.name), written)
            assert validator.is_valid(table), (table, meant is NOTHING)
        for written in alias.refused:
            assert not validator.is_valid(nest((*section, alias.name), written))
        if alias.refused_always:
            assert not validator.is_valid(nest((*section, alias.name), "anything"))
        elif alias.path in layout().sections:
            assert validator.is_valid(nest((*section, alias.name), {"max_replicas": 3} if "auto" in alias.name else {}))
            assert not validator.is_valid(nest((*section, alias.name), 3))
        else:
            assert validator.is_valid(nest((*section, alias.name), None))


@pytest.mark.parametrize(
    "table",
    [
        {"nonsense": 1},
        {"fine_tuning": {"parameters": {"lora_aplha": 1}}},
        {"fine_tuning": {"method": "qlroa"}},
        {"model_config": {"fine_tuning": {"training": {"epochs": 0}}}},
        {"lora_r": 0},
        {"deployment": {"port": 70000}},
        {"deployment": {"resources": {"memory": "lots"}}},
        {"quality_control": {"metrics": {"diversity_score": "0.7"}}},
        {"version": 1.0},
        {"name": "a b"},
    ],
)
def test_mistakes_are_invalid(validator: Any, table: Any) -> None:
    assert not validator.is_valid(table)


def test_every_key_and_section_has_a_description() -> None:
    for path, section in layout().sections.items():
        assert section.__doc__, path
        for name, info in section.model_fields.items():
            assert info.description, (*path, name)
            assert info.description.endswith("."), (*path, name)


def test_every_property_of_the_schema_has_a_description(validator: Any) -> None:
    objects = [validator.schema, *validator.schema["$defs"].values()]
    for described in objects:
        for name, prop in described["properties"].items():
            assert prop.get("description"), (described["title"], name)


def test_every_section_is_described_once(validator: Any) -> None:
    for path in layout().sections:
        reference = _reference(path)["$ref"]
        assert reference == "#" or reference.removeprefix("#/$defs/") in validator.schema["$defs"]
    names = [section.__name__ for section in layout().sections.values()]
    assert len(names) == len(set(names)), "one class in two places would get the aliases of both"
