"""Filters of registered versions: ``kind=lora license=apache-2.0 context>=8192``.

A filter is one condition or several with spaces between them: a name, a sign and a value. All of them must hold.

- Words (``=``) are those of the registry (``domain``, ``tag``, ``license``, ...) and of a model's files (``language``,
  ``architecture``, ...).
- Amounts (``=``, ``>=``, ``<=``, ``>``, ``<``) are ``context`` in tokens, ``parameters`` (135M, 7B), ``size`` of the
  files and ``memory`` of the weights in bf16 (16GB, 32Gi).
- Every other name with ``>=``, ``<=``, ``>`` or ``<`` is an evaluation result.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from llamafarm_ray.config.values import Comparison, MemorySize
from llamafarm_ray.errors import InputError, NotFoundError, did_you_mean
from llamafarm_ray.registry import VersionRecord
from llamafarm_ray.registry.governance.policy import metric_value
from llamafarm_ray.workflows.inspection.model_facts import FactsReader, ModelFacts
from llamafarm_ray.workflows.versions.metrics import flat_metrics, main_metric

__all__ = ["Filters"]

_CONDITION = re.compile(r"(?:^|(?<=\s))([^\s=<>]+)\s*(>=|<=|>|<|=)")
_COUNT = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)([kKMB]?)")
_COUNT_UNITS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9}
_ALSO_CALLED = {"tags": "tag", "capabilities": "capability", "name": "model", "aliases": "alias", "licence": "license"}
_ANY_CASE = {"architecture", "format", "kind", "language", "license", "served_by", "trained_by"}

_FIELDS: dict[str, Callable[[VersionRecord, tuple[str, ...]], Sequence[str]]] = {
    "alias": lambda _, aliases: aliases,
    "base_model": lambda record, _: (record.registered.base_model,),
    "capability": lambda record, _: record.registered.capabilities,
    "dataset": lambda record, _: (record.registered.dataset,),
    "domain": lambda record, _: (record.registered.domain,),
    "kind": lambda record, _: (record.registered.kind, record.registered.method),
    "license": lambda record, _: (record.license,),
    "method": lambda record, _: (record.registered.method,),
    "model": lambda record, _: (record.registered.model,),
    "principal": lambda record, _: (record.principal,),
    "run": lambda record, _: (record.registered.run,),
    "status": lambda record, _: (record.status,),
    "tag": lambda record, _: record.tags,
    "version": lambda record, _: (record.registered.version,),
}
"""Words that the registry knows."""

_WORDS: dict[str, Callable[[ModelFacts], Sequence[str]]] = {
    "architecture": lambda facts: (facts.answering.architecture,) if facts.answering else (),
    "chat_template": lambda facts: ("yes" if facts.answering.has_chat_template else "no",) if facts.answering else (),
    "format": lambda facts: (facts.own.inspection.format,),
    "language": lambda facts: facts.languages,
    "served_by": lambda facts: facts.served_by,
    "trained_by": lambda facts: facts.trained_by,
}
"""Words that are read from a model's files."""

_AMOUNTS: dict[str, Callable[[ModelFacts], int | None]] = {
    "context": lambda facts: facts.answering.context_length if facts.answering else None,
    "memory": lambda facts: facts.memory_bytes.get("bf16"),
    "parameters": lambda facts: facts.answering.num_parameters if facts.answering else None,
}
"""Amounts that are read from a model's files; ``size`` is the registry's."""


@dataclass(frozen=True, slots=True)
class Filters:
    """Conditions on a version.

    Attributes:
        amounts: goals for amounts.
        goals: goals for evaluation results, by dotted name.
    """

    fields: tuple[tuple[str, str], ...] = ()
    words: tuple[tuple[str, str], ...] = ()
    amounts: tuple[tuple[str, Comparison], ...] = ()
    goals: tuple[tuple[str, Comparison], ...] = ()

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Filters:
        """Read ``domain=medical``, ``kind=lora context>=8192``, ``accuracy>0.8``, ...

        Raises:
            InputError: a text has another form, or there is no such name.
        """
        fields, words, amounts, goals = [], [], [], []
        for name, sign, value in (condition for text in texts for condition in _conditions(text)):
            known = _ALSO_CALLED.get(name, name)
            if known == "size" or known in _AMOUNTS:
                amounts += [(known, goal) for goal in _amount(known, sign, value)]
            elif sign != "=":
                goals.append((name, _goal(name, sign, value)))
            elif known in _FIELDS:
                fields.append((known, value))
            elif known in _WORDS:
                words.append((known, value))
            else:
                near = did_you_mean(name, [*_FIELDS, *_WORDS, *_AMOUNTS, "size"])
                raise InputError(f"{name!r} can't be filtered by.", hint=near)
        return cls(tuple(fields), tuple(words), tuple(amounts), tuple(goals))

    def hold(self, record: VersionRecord, aliases: tuple[str, ...], reader: FactsReader) -> bool:
        """Return True if they hold of a version. Its files are read last, and only if a condition needs it."""
        return (
            all(_has(_FIELDS[field](record, aliases), field, value) for field, value in self.fields)
            and all(
                (measured := metric_value(record.metrics, name)) is not None and goal.holds(measured)
                for name, goal in self.goals
            )
            and all(goal.holds(record.registered.size_bytes) for name, goal in self.amounts if name == "size")
            and self._hold_of_files(record, reader)
        )

    def _hold_of_files(self, record: VersionRecord, reader: FactsReader) -> bool:
        amounts = [(name, goal) for name, goal in self.amounts if name != "size"]
        if not self.words and not amounts:
            return True
        facts = reader.of(record)
        return (
            facts is not None
            and all(_has(_WORDS[name](facts), name, value) for name, value in self.words)
            and all((found := _AMOUNTS[name](facts)) is not None and goal.holds(found) for name, goal in amounts)
        )

    def shown(self, record: VersionRecord) -> tuple[tuple[str, float], ...]:
        """Return the results worth showing of a version."""
        if self.goals:
            asked = dict.fromkeys(name for name, _ in self.goals)
            return tuple((name, value) for name in asked if (value := metric_value(record.metrics, name)) is not None)
        main = main_metric(record.metrics)
        return (main,) if main else ()

    def check_measured(self, records: Sequence[VersionRecord]) -> None:
        """Check that any version has each result that is asked about, since a typing error would find nothing.

        Raises:
            NotFoundError: no version has it.
        """
        for name, _ in self.goals:
            if not records or any(metric_value(record.metrics, name) is not None for record in records):
                continue
            known = {metric for record in records for metric in flat_metrics(record.metrics)}
            raise NotFoundError(
                f"No version has a metric {name!r}.", hint=did_you_mean(name, {*known, *_AMOUNTS, "size"})
            )


def _conditions(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield name, sign and value; a value ends where the next name and sign begin.

    Raises:
        InputError: there is no condition in the text.
    """
    found = list(_CONDITION.finditer(text))
    if not found:
        raise InputError(
            f"{text!r} is no filter.", hint="Write it like domain=medical, 'accuracy>0.8' or 'kind=lora context>=8192'."
        )
    ends = [match.start() for match in found[1:]] + [len(text)]
    for at, (match, end) in enumerate(zip(found, ends, strict=True)):
        before = text[: match.start()] if at == 0 else ""  # a name may have spaces in it
        yield f"{before}{match[1]}".strip(), match[2], text[match.end() : end].strip()


def _has(values: Sequence[str], name: str, wanted: str) -> bool:
    if name in _ANY_CASE:
        return wanted.casefold() in {str(value).casefold() for value in values}
    return wanted in values


def _goal(name: str, sign: str, value: str) -> Comparison:
    try:
        return Comparison.parse(f"{sign}{value}")
    except ValueError as error:
        raise InputError(
            f"'{name}{sign}{value}' is no filter: it {error}.", hint="Write it like 'accuracy>0.8'."
        ) from None


def _amount(name: str, sign: str, value: str) -> list[Comparison]:
    """Return the goals for an amount; for ``=`` these are two."""
    if name in {"size", "memory"}:
        try:
            number = float(MemorySize.parse(value).num_bytes)
        except ValueError as error:
            raise InputError(f"{name}{sign}{value} is no filter: {name} {error}.") from None
    else:
        match = _COUNT.fullmatch(value)
        if match is None:
            raise InputError(
                f"'{name}{sign}{value}' is no filter: {value!r} is no number.",
                hint="Write it like 'context>=8192' or 'parameters<=7B'.",
            )
        number = float(match[1]) * _COUNT_UNITS[match[2]]
    return [Comparison(f"{one}{value}", one, number) for one in ((">=", "<=") if sign == "=" else (sign,))]
