"""The JSON Schema of a configuration file, for editors: the canonical shape and every other accepted spelling."""

from __future__ import annotations

import copy
from typing import Any

from llamafarm_ray.config.aliases import ALIASES
from llamafarm_ray.config.aliases.alias import Alias
from llamafarm_ray.config.layout import SHORTHANDS, Path, layout
from llamafarm_ray.config.sections.root import Config

__all__ = ["json_schema"]


def json_schema() -> dict[str, object]:
    """The schema, in JSON Schema's draft 2020-12.

    It has keys, types and ranges. Rules between keys, and a key given in two spellings, are found by reading the file
    only.
    """
    schema: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:llamafarm-ray:config",
        **Config.model_json_schema(),
        "title": "llamafarm_ray configuration",
    }
    canonical = copy.deepcopy(schema)
    for path in (path for path in layout().sections if path):
        _allow_other_forms_of_section(schema, canonical, path)
    by_key: dict[tuple[Path, str], list[Alias]] = {}
    for alias in ALIASES:
        if not alias.refused_always:
            for section in alias.sections:
                by_key.setdefault((section, alias.name), []).append(alias)
    for (section, name), aliases in by_key.items():
        forms = [_alias_schema(schema, canonical, alias) for alias in aliases]
        either = {"description": " ".join(str(form["description"]) for form in forms), "anyOf": forms}
        _object_of(schema, section)["properties"][name] = forms[0] if len(forms) == 1 else either
    return schema


def _object_of(schema: dict[str, Any], section: Path) -> dict[str, Any]:
    """The object that describes a section."""
    found: dict[str, Any] = schema["$defs"][layout().sections[section].__name__] if section else schema
    return found


def _allow_other_forms_of_section(schema: dict[str, Any], canonical: dict[str, Any], path: Path) -> None:
    """A section may be empty, which YAML reads as null, and some may be a plain text."""
    forms = [_reference(path), {"type": "null"}]
    if path in SHORTHANDS:
        forms.insert(1, _property(canonical, (*path, SHORTHANDS[path])))
    properties = _object_of(schema, path[:-1])["properties"]
    info = layout().sections[path[:-1]].model_fields[path[-1]]
    properties[path[-1]] = {"description": info.description, "anyOf": forms}


def _reference(path: Path) -> dict[str, object]:
    return {"$ref": f"#/$defs/{layout().sections[path].__name__}" if path else "#"}


def _property(canonical: dict[str, Any], path: Path) -> dict[str, Any]:
    """The schema of a key's value, without what belongs to its own place."""
    if path[:-1] in layout().free:
        return dict(_property(canonical, path[:-1])["additionalProperties"])
    found = _object_of(canonical, path[:-1])["properties"][path[-1]]
    return {key: value for key, value in found.items() if key not in ("default", "description", "title")}


def _alias_schema(schema: dict[str, Any], canonical: dict[str, object], alias: Alias) -> dict[str, object]:
    about = {"description": f"Another spelling of {alias.target or 'the whole configuration'} ({alias.tools})."}
    if alias.path in layout().sections:
        if not alias.path:
            return {**about, **_reference(())}
        return {**about, **_object_of(schema, alias.path[:-1])["properties"][alias.path[-1]], **about}
    accepted: list[object] = [{"type": "null"}]
    if alias.values:
        accepted.append({"enum": [value for value in alias.values if value is not None]})
    if alias.accepts is not None:
        accepted.append(dict(alias.accepts))
    elif not alias.values or alias.others_pass:
        accepted.append(_property(canonical, alias.path))
    return {**about, "anyOf": accepted}
