"""What this release's engines do: a configuration that asks for more is refused, never quietly cut down.

The schema describes the whole line, and some of it has no engine yet. Each row names a key, the step that would need
it, and which values ask for something that isn't there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from llamafarm_ray.config.layout import parse_path
from llamafarm_ray.config.root import Config
from llamafarm_ray.config.wording import shown
from llamafarm_ray.errors import InputError, UnsupportedError, did_you_mean

__all__ = ["GAPS", "Gap", "Step", "Verb", "refuse_unavailable", "unavailable"]

Verb = Literal["create-dataset", "train"]
"""The commands that may need what has no engine yet."""

Step = Literal["build", "training"]


@dataclass(frozen=True, slots=True)
class Gap:
    """One thing that can be configured and not yet done.

    Attributes:
        key: the dotted key.
        step: the step that would need it.
        available: the values that work, for the message; empty where the key has to be left out.
        asked: the part of a value that asks for what isn't there; empty if none does.
        when: a dotted key that has to be true for this one to matter.
    """

    key: str
    step: Step
    available: tuple[Any, ...]
    asked: Callable[[Any], tuple[Any, ...]]
    when: str = ""


def _only(key: str, step: Step, *available: Any, when: str = "") -> Gap:
    """Only the values named work."""
    return Gap(key, step, available, lambda value: () if value in available else (value,), when)


def _nothing(key: str, step: Step) -> Gap:
    """No value works: the key must be left out, null, false or empty."""
    return Gap(key, step, (), lambda value: () if value is None or value is False or value == () else (value,))


GAPS: Final = (
    _only("dataset.source.type", "build", "rag_documents", "domain_corpus", "conversation_logs", "human_feedback"),
    _only("dataset.preprocessing.qa_generation.enabled", "build", True),
    _nothing("dataset.synthetic_generation.enabled", "build"),
    _nothing("dataset.augmentation", "build"),
)
"""What has no engine yet."""


def refuse_unavailable(config: Config, verb: Verb) -> None:
    """Refuse what a verb would need and this release has no engine for.

    ``train`` builds its dataset from ``dataset.source`` if neither ``dataset.path`` nor ``dataset.mixture`` is given,
    and then needs what ``create-dataset`` needs too.

    Raises:
        UnsupportedError: naming every such key with its value and what works instead.
        InputError: there is no such verb.
    """
    lines = _lines(config, verb)
    if lines:
        listed = "".join(f"\n  {line}" for line in lines)
        things = "a setting" if len(lines) == 1 else f"{len(lines)} settings"
        raise UnsupportedError(f"`{verb}` asks for {things} that this release has no engine for:{listed}")


def unavailable(config: Config) -> dict[str, list[str]]:
    """What each verb would refuse: a line a key, ``"dataset.augmentation: true is not ..."``; {} if nothing."""
    return {verb: lines for verb in get_args(Verb) if (lines := _lines(config, verb))}


def _lines(config: Config, verb: str) -> list[str]:
    steps = _steps(config, verb)
    return [line for gap in GAPS if gap.step in steps for line in _ask(config, gap)]


def _steps(config: Config, verb: str) -> tuple[Step, ...]:
    steps: Mapping[str, tuple[Step, ...]] = {
        "create-dataset": ("build",),
        "train": ("training",) if config.dataset.path is not None or config.dataset.mixture else ("build", "training"),
    }
    if verb not in steps:
        raise InputError(
            f"{verb!r} is no verb that may refuse a configuration.", hint=did_you_mean(verb, get_args(Verb))
        )
    return steps[verb]


def _ask(config: Config, gap: Gap) -> Iterator[str]:
    asked = gap.asked(_value(config, gap.key))
    if asked and (not gap.when or _value(config, gap.when)):
        instead = f"use {_list(gap.available, ' or ')}" if gap.available else "leave it out"
        yield f"{gap.key}: {_list(asked, ' and ')} is not available yet; {instead}."


def _list(values: tuple[Any, ...], last: str) -> str:
    words = [_word(value) for value in values]
    return last.join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _word(value: Any) -> str:
    return value if isinstance(value, str) else shown(value) if isinstance(value, bool | float | tuple) else str(value)


def _value(config: Config, key: str) -> Any:
    here: Any = config
    for name in parse_path(key):
        here = getattr(here, name)
    return here
