"""Read a configuration: defaults, then a file, then overrides; report every mistake at once."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from llamafarm_ray.config.aliases.dialects import misunderstandings
from llamafarm_ray.config.aliases.placing import Given, Placement
from llamafarm_ray.config.layout import Path, layout, parse_path
from llamafarm_ray.config.loading.overrides import apply_overrides
from llamafarm_ray.config.loading.problems import Finding, findings
from llamafarm_ray.config.loading.reading import read_file
from llamafarm_ray.config.sections.base import Section
from llamafarm_ray.config.sections.root import Config
from llamafarm_ray.config.wording import dotted
from llamafarm_ray.errors import ConfigError
from llamafarm_ray.types import Digest

__all__ = ["config_digest", "load_config", "parse_config", "recorded", "resolved"]

_CREDENTIALS = re.compile(r"://[^/\s@]*@")
_SECRET_OPTION = re.compile(r"(^|_)(token|key|password|secret)$", re.IGNORECASE)


def load_config(path: str | FilePath | None, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration from a file and overrides.

    Relative paths inside of it are kept as written: they start at the current directory, not at the file.

    Args:
        path: a JSON or YAML file; None for the defaults.
        overrides: ``key=value`` texts, as :func:`llamafarm_ray.config.loading.overrides.apply_overrides` reads them.

    Raises:
        InputError: there is no such file, or it is no readable JSON or YAML.
        ConfigError: it was read and has mistakes; all of them are listed, each with its key as it was written.
    """
    if path is None:
        return parse_config({}, overrides, source="the command line")
    return parse_config(read_file(FilePath(path)), overrides, source=str(path))


def parse_config(
    table: Mapping[str, object], overrides: Sequence[str] = (), *, source: str = "the configuration"
) -> Config:
    """The configuration that a mapping means, in the canonical or any other accepted shape.

    Args:
        table: JSON-like values.
        overrides: ``key=value`` texts on top of it.
        source: its name in errors.

    Raises:
        ConfigError: it has mistakes; all of them are listed.
    """
    placement = Placement()
    placement.place(table)
    apply_overrides(placement, overrides)
    config, problems = _validate(placement)
    problems = [*placement.problems, *problems]
    if config is None or problems:
        raise ConfigError(source, problems)
    return config


def resolved(config: Config) -> dict[str, Any]:
    """The whole configuration, defaults included, as JSON values in the canonical shape.

    Keys that mean nothing beside the others (a rank beside ``method: full``) are left out. Reading the result gives an
    equal configuration.
    """
    table = config.model_dump(mode="json")
    for path in layout().sections:
        section: object = config
        for name in path:
            section = getattr(section, name, None)
        if isinstance(section, Section):
            for key in section.unused():
                _remove(table, (*path, *parse_path(key)))
    return table


def recorded(config: Config) -> dict[str, Any]:
    """The whole configuration as records keep it: :func:`resolved` without secrets.

    Users and passwords of URLs are cut out, a webhook's URL and engine options that hold a token are null. Reading the
    result gives a configuration that lacks them.
    """
    table = resolved(config)
    if table["monitoring"]["alerting"].get("webhook"):
        table["monitoring"]["alerting"]["webhook"] = None
    engine = table["deployment"].get("engine_kwargs") or {}
    for name in engine:
        if _SECRET_OPTION.search(name):
            engine[name] = None
    public: dict[str, Any] = _without_credentials(table)
    return public


def _without_credentials(value: Any) -> Any:
    """Return JSON values with URLs that name no user and no password."""
    match value:
        case str():
            return _CREDENTIALS.sub("://", value)
        case dict():
            return {_without_credentials(name): _without_credentials(one) for name, one in value.items()}
        case list():
            return [_without_credentials(one) for one in value]
    return value


def config_digest(config: Config) -> Digest:
    """Return the digest of a configuration, the same for every spelling of it.

    It is over :func:`resolved` as JSON with sorted keys and no spaces.
    """
    text = json.dumps(resolved(config), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return Digest.of(text.encode())


def _remove(table: dict[str, Any], path: Path) -> None:
    """Remove a key; its section may be gone already, because it means nothing itself."""
    for name in path[:-1]:
        table = table.get(name, {})
    table.pop(path[-1], None)


def _validate(placement: Placement) -> tuple[Config | None, list[str]]:
    """Validate; on mistakes, leave out what they are about and go on, to find those that they hide.

    Pydantic judges a section as a whole only when all of its keys are right. A rule that is broken by other keys must
    be reported in the same go, but none that only is because a wrong value was left out.
    """
    values, doubtful, problems = dict(placement.values), set(placement.doubtful), list[str]()
    for path, problem in misunderstandings(placement.values):
        problems.append(problem)
        doubtful.add(path)
        values.pop(path, None)
    while True:
        try:
            return Config.model_validate(_nested(values)), problems
        except ValidationError as error:
            found = list(findings(error))
        for finding in found:
            if not any(_touches(path, other) for path in finding.paths for other in doubtful):
                problems.append(_line(finding, placement.values))
        wrong = {path for finding in found for path in finding.paths}
        left_out = _under(values, wrong)
        if not left_out:  # what is wrong isn't there, so it is what its section lacks
            wrong = {path[:-1] for path in wrong}
            left_out = _under(values, wrong)
        if not left_out:
            return None, problems
        doubtful |= wrong
        for path in left_out:
            del values[path]


def _under(values: Mapping[Path, Given], paths: set[Path]) -> list[Path]:
    return [given for given in values if any(given[: len(path)] == path for path in paths)]


def _touches(one: Path, other: Path) -> bool:
    length = min(len(one), len(other))
    return one[:length] == other[:length]


def _line(finding: Finding, values: Mapping[Path, Given]) -> str:
    keys = [values[path].key if path in values else dotted(path) for path in finding.paths]
    inside = dotted(finding.inside)
    return f"{keys[0]}{inside}: {finding.text.format(*keys)}"


def _nested(values: Mapping[Path, Given]) -> dict[str, Any]:
    """The flat values as nested mappings; keys inside a section replace a null in its place."""
    table: dict[str, Any] = {}
    for path in sorted(values, key=len):
        here = table
        for name in path[:-1]:
            if not isinstance(here.get(name), dict):
                here[name] = {}
            here = here[name]
        value = values[path].value
        here[path[-1]] = dict(value) if isinstance(value, Mapping) else value
    return table
