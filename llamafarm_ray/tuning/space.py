"""The search space: keys of the configuration, the values each is tried with, and the configuration a trial gets."""

from __future__ import annotations

import copy
import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, get_args, get_origin

from pydantic import ConfigDict, ValidationError, create_model

from llamafarm_ray.config import Config, Domain, parse_config
from llamafarm_ray.config.aliases.placing import Placement
from llamafarm_ray.config.layout import Path, layout, parse_path
from llamafarm_ray.config.sections.base import Section
from llamafarm_ray.config.sections.tuning import DomainKind
from llamafarm_ray.config.wording import shown
from llamafarm_ray.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Point", "Space", "base_table", "sample"]

_SEARCHABLE: Final = ("fine_tuning", "base_model", "seed", "dataset.path", "dataset.preprocessing.max_length")
"""Keys that a training depends on, besides rows that are made once for all trials."""
_NOT_SEARCHABLE: Final = ("fine_tuning.training.checkpoint_location", "fine_tuning.training.log_every_s")
_MAX_GRID: Final = 100_000


@dataclass(frozen=True, slots=True)
class Point:
    """Settings of a trial.

    Args:
        values: of each searched key; those that mean nothing beside the others (a rank beside ``method: full``) are
            left out.
        config: the trial's configuration; None where the values break a rule.
        problem: the rule that they break.
    """

    values: dict[str, Any]
    config: Config | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Space:
    """Keys and their values, checked against the schema.

    Args:
        domains: by canonical dotted key, those that decide about others first.
        base: settings common to all trials, as JSON values: the user's, and no others.
    """

    domains: Mapping[str, Domain]
    base: Mapping[str, object]

    @classmethod
    def of(cls, config: Config, domains: Mapping[str, Domain] | None = None) -> Space:
        """The space of ``tuning.parameters``, or another one, around a configuration.

        Raises:
            ConfigError: keys don't exist or can't be searched, or values are none that they take; all of them listed.
        """
        problems: list[str] = []
        found: dict[str, Domain] = {}
        for key, domain in (config.tuning.parameters if domains is None else domains).items():
            name = f"tuning.parameters.{key}"
            canonical = _canonical(key, domain, problems)
            if canonical is None:
                continue
            if not _is_searchable(canonical):
                problems.append(f"{name}: can't be searched, since no training depends on it; leave it out.")
            elif canonical in found:
                problems.append(f"{name}: is {canonical}, which is given already; keep one.")
            else:
                problems += [f"{name}: {text}" for text in _wrong_values(canonical, domain)]
                found[canonical] = domain
        if problems:
            raise ConfigError("the search space", problems)
        order = sorted(found, key=lambda key: key.count("."))  # the method before its parameters
        return cls({key: found[key] for key in order}, base_table(config))

    def point(self, values: Mapping[str, object]) -> Point:
        """The configuration with some values of the searched keys; a rule that they break is told, not raised."""
        table = copy.deepcopy(dict(self.base))
        used: dict[str, object] = {}
        known = _try(table)
        for key in (key for key in self.domains if key in values):
            if known is not None and _is_unused(known, key):
                continue
            used[key] = values[key]
            _put(table, key, values[key])
            known = _try(table) or known
        try:
            return Point(used, parse_config(table))
        except ConfigError as error:
            return Point(used, None, "; ".join(error.problems))

    def num_points(self) -> float:
        """Number of combinations; infinite where a range has no steps."""
        return math.prod(_num_values(domain) for domain in self.domains.values())

    def grid(self) -> Iterator[dict[str, object]]:
        """Every combination, the last key's values changing fastest.

        Raises:
            ConfigError: a range has no steps, or there are too many combinations.
        """
        problems = [
            f"tuning.parameters.{key}: is {domain.kind}, which has no end of values; list them, or use search: random."
            for key, domain in self.domains.items()
            if _num_values(domain) == math.inf
        ]
        if not problems and self.num_points() > _MAX_GRID:
            problems = [f"tuning.parameters: makes {self.num_points():,.0f} combinations; use search: random."]
        if problems:
            raise ConfigError("the search space", problems)
        lists = [_all_values(domain) for domain in self.domains.values()]
        return (dict(zip(self.domains, combination, strict=True)) for combination in itertools.product(*lists))


def base_table(config: Config) -> dict[str, object]:
    """Return the values that a configuration sets, without its defaults and its sweep."""
    table: dict[str, object] = config.model_dump(mode="json", exclude_unset=True, exclude={"tuning"})
    return table


def sample(domain: Domain, rng: random.Random) -> object:
    """Draw a value."""
    if domain.is_list:
        return rng.choice(domain.values)
    low, high = domain.values[:2]
    if domain.kind == "int":
        return rng.randint(low, high)
    if domain.kind == "log_int":
        drawn = math.exp(rng.uniform(math.log(low - 0.5), math.log(high + 0.5)))
        return min(high, max(low, round(drawn)))
    if domain.kind == "quniform":
        return rng.choice(_all_values(domain))
    is_log = domain.kind == "log_uniform"
    value = math.exp(rng.uniform(math.log(low), math.log(high))) if is_log else rng.uniform(low, high)
    return _rounded(min(high, max(low, value)))


def _rounded(value: float) -> float:
    """Six digits: enough for any setting, and readable."""
    return float(f"{value:.6g}")


def _all_values(domain: Domain) -> Sequence[Any]:
    """The values of a list or of a range with steps."""
    if domain.is_list:
        return domain.values
    low, high = domain.values[:2]
    if domain.kind == "quniform":
        step = domain.values[2]
        return [_rounded(low + index * step) for index in range(math.floor((high - low) / step + 1e-9) + 1)]
    return range(low, high + 1)


def _num_values(domain: Domain) -> float:
    return math.inf if domain.kind in {"uniform", "log_uniform"} else len(_all_values(domain))


def _canonical(key: str, domain: Domain, problems: list[str]) -> str | None:
    """The key's canonical spelling; other tools' names (``lora_r``) are known too."""
    placement, table = Placement(), dict[str, object]()
    _put(table, key, domain.values[0])
    placement.place(table)
    problems += [f"tuning.parameters.{problem}" for problem in placement.problems]
    if any(isinstance(one.value, Mapping) and path in layout().leaves for path, one in placement.values.items()):
        name, _, kind = key.rpartition(".")
        kinds = ", ".join(get_args(DomainKind))
        problems.append(f"tuning.parameters.{name}: must be values of a kind that exists ({kinds}), not {kind}.")
        return None
    given = [path for path, value in placement.values.items() if value.value != {} or path in layout().leaves]
    if placement.problems:
        return None
    if len(given) != 1 or (given[0] not in layout().leaves and given[0][:-1] not in layout().free):
        problems.append(f"tuning.parameters.{key}: is a section; name a key in it.")
        return None
    return ".".join(given[0])


def _is_searchable(key: str) -> bool:
    inside = any(key == start or key.startswith(f"{start}.") for start in _SEARCHABLE)
    return inside and key not in _NOT_SEARCHABLE


def _wrong_values(key: str, domain: Domain) -> Iterator[str]:
    """Yield the schema's objections to a list's values, or to a range's ends."""
    path: Path = parse_path(key)
    is_free = path not in layout().leaves
    info = layout().leaves[path[:-1] if is_free else path]
    settings = ConfigDict(strict=True, allow_inf_nan=False)
    field: Any = (info.annotation, info)
    model: PreTrainedModel = create_model("Value", __config__=settings, value=field)
    ends = domain.values if domain.is_list else _all_values(domain) if domain.kind == "quniform" else domain.values[:2]
    for value in ends:
        given = _plain(value)
        try:
            model(value={path[-1]: given} if is_free else given)
        except ValidationError as error:
            found = error.errors()
            first = next((one for one in found if one["type"] != "literal_error"), found[0])
            yield f"{shown(value)} is no value of it: {first['msg'][:1].lower()}{first['msg'][1:]}."
    takes_numbers = {int, float} & set(_types_of(info.annotation))
    if domain.kind in {"uniform", "log_uniform"} and takes_numbers == {int}:
        yield f"takes whole numbers; use {'log_int' if domain.kind == 'log_uniform' else 'int'}."


def _types_of(annotation: object) -> Iterator[object]:
    """Yield the types that an annotation is made of: ``int`` of ``Literal["auto"] | Annotated[int, Field(ge=1)]``."""
    inner = get_args(annotation)
    if get_origin(annotation) is Literal or not inner:
        yield annotation
    elif get_origin(annotation) is Annotated:
        yield from _types_of(inner[0])
    else:
        for each in inner:
            yield from _types_of(each)


def _plain(value: object) -> object:
    """Tuples as lists, as in a file."""
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def _put(table: dict[str, object], key: str, value: object) -> None:
    *sections, name = key.split(".")
    here = table
    for section in sections:
        known = here.get(section)
        below: dict[str, object] = known if isinstance(known, dict) else {}
        here[section] = below
        here = below
    here[name] = _plain(value)


def _try(table: Mapping[str, object]) -> Config | None:
    try:
        return parse_config(table)
    except ConfigError:
        return None


def _is_unused(config: Config, key: str) -> bool:
    """Return True if a section marks a key as unused beside its other values."""
    path = parse_path(key)
    here: object = config
    for depth, name in enumerate(path):
        if isinstance(here, Section) and ".".join(path[depth:]) in here.unused():
            return True
        here = here.get(name) if isinstance(here, Mapping) else getattr(here, name, None)
    return False
