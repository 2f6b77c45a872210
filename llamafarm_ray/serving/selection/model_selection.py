"""Selection of the best model for a task: limits, ranking, and the reasons against all others.

Nothing here depends on the source of the numbers: a replica has them in memory (:mod:`.catalog`), the client
(:mod:`llamafarm_ray.client`) reads them from ``GET /v1/models``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

from llamafarm_ray.errors import InputError, NotFoundError, did_you_mean

__all__ = ["CARD_FIELD", "LeftOut", "NoModelFitsError", "Offer", "Selection", "Wanted", "card_of", "select"]

CARD_FIELD = "llamafarm"
"""Field of a model's card in ``GET /v1/models`` with its catalog entry (:func:`card_of`)."""
_SAME_LATENCY = 1.5
"""Latencies up to this factor over the lowest count as equal to it: which is lower changes from minute to minute."""


@dataclass(frozen=True, slots=True)
class Offer:
    """Catalog entry of a model that requests can name.

    Attributes:
        version: version that answers to it: ``name:version``, or the base's name for the base.
        kinds: the requests that its application answers: ``chat`` and ``completions``, or ``embeddings``.
        tasks: its tasks: the capabilities that it was registered with; without any, its kinds.
        withheld: reason that only requests by name get it; empty if it may be chosen.
        quality: its evaluation's result, 0 to 1; ``None`` where there is none.
        quality_metric: metric of the quality, such as ``accuracy``.
        latency_ms: the 95th percentile of its latest requests' latency; ``None`` where nothing was measured.
        memory_bytes: its memory, as it was registered, else the size of its files and its base's; ``None`` where
            that is not known.
        base_url: the OpenAI-compatible root that serves it; empty for the application that chooses.
    """

    model: str
    version: str
    kinds: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    withheld: str = ""
    quality: float | None = None
    quality_metric: str = ""
    latency_ms: float | None = None
    memory_bytes: float | None = None
    base_url: str = ""


def card_of(offer: Offer) -> dict[str, object]:
    """Return a model's card: the entry without name and address, which the reader has."""
    return {name: value for name, value in asdict(offer).items() if name not in {"model", "base_url"}}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Requirements of a request. ``None`` requires nothing.

    Attributes:
        kind: the kind of request that it must answer: ``chat``, ``completions`` or ``embeddings``.
        task: required task; without one, the kind.
        max_latency_ms: the most that the 95th percentile of its latency may be, in milliseconds.
        min_quality: the least that its evaluation must say, 0 to 1.
        max_memory_bytes: the most memory that it may need.

    Raises:
        InputError: a limit is no number, or out of range.
    """

    kind: str | None = None
    task: str | None = None
    max_latency_ms: float | None = None
    min_quality: float | None = None
    max_memory_bytes: float | None = None

    def __post_init__(self) -> None:
        for name, most in (("max_latency_ms", math.inf), ("min_quality", 1), ("max_memory_bytes", math.inf)):
            value = getattr(self, name)
            if value is None:
                continue
            is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not is_number or not 0 <= value <= most:
                between = "a number from 0 to 1" if most == 1 else "a number of 0 or more"
                raise InputError(f"{name} must be {between}, not {value!r}.")


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A model, or an application, that was not chosen.

    Attributes:
        model: its name; empty for a whole application.
        base_url: root of its routes.
    """

    model: str
    base_url: str
    reason: str


@dataclass(frozen=True, slots=True)
class Selection:
    """The model that was chosen.

    Attributes:
        model: value of a request's ``model``. Rollouts and promotions count for it as for everybody.
        version: the version that it means now; send this to keep to it.
        base_url: the OpenAI-compatible root to send requests to.
        reason: reason for the choice.
        left_out: offers that were not chosen, each with its reason.
    """

    model: str
    version: str
    base_url: str
    reason: str
    offer: Offer
    left_out: tuple[LeftOut, ...] = ()


class NoModelFitsError(NotFoundError):
    """No model meets all that is asked.

    Args:
        message: limit that no model meets, and the best model's value.
        left_out: each model with the first limit that it misses.
        hint: next step.
    """

    code = "no_model_fits"

    def __init__(self, message: str, *, left_out: tuple[LeftOut, ...] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.left_out = left_out


@dataclass(frozen=True, slots=True)
class _Limit:
    """One thing that is asked.

    Attributes:
        what: for a message: models *with* (or *for*) what.
        misses: returns the reason that an entry misses it; empty if it meets it.
        nearest: given all that miss it, how near the best of them came.
    """

    what: str
    misses: Callable[[Offer], str]
    nearest: Callable[[Sequence[Offer]], str]


def select(offers: Iterable[Offer], wanted: Wanted) -> Selection:
    """The best model that meets all that is wanted; the same offers give the same one.

    The best has the highest quality (those that were not evaluated come last); of those the lowest latency, or one up
    to 1.5 times it; of those it needs the least memory. Then models of the application that chooses come before
    others, and names decide.

    Raises:
        NoModelFitsError: there is none.
    """
    left = list(offers)
    left_out: list[LeftOut] = []
    met: list[str] = []
    if not left:
        raise NoModelFitsError("There is no model to choose from.", hint="Is one deployed that the key may use?")
    for limit in _limits(wanted):
        missing = [(offer, reason) for offer in left if (reason := limit.misses(offer))]
        left_out += [LeftOut(offer.model, offer.base_url, reason) for offer, reason in missing]
        if len(missing) == len(left):
            among = f"Of the models {' and '.join(met)}, none is" if met else "No model is"
            raise NoModelFitsError(f"{among} {limit.what}.", left_out=tuple(left_out), hint=limit.nearest(left))
        missed = {id(offer) for offer, _ in missing}
        left = [offer for offer in left if id(offer) not in missed]
        met.append(limit.what)
    best = _best(left)
    others = [offer for offer in left if offer is not best]
    for offer in others:
        left_out.append(LeftOut(offer.model, offer.base_url, f"{best.version} has {_advantage(best, offer)}"))
    reason = "the only one that meets all limits"
    if others:
        second = _best(others)
        reason = f"{_advantage(best, second)} than the next, {second.version}"
    return Selection(best.model, best.version, best.base_url, reason, best, tuple(left_out))


def _limits(wanted: Wanted) -> Iterator[_Limit]:
    """Yield the requirements, the broadest first."""
    if wanted.kind is not None:
        yield _of_names(f"for {wanted.kind} requests", wanted.kind, lambda offer: offer.kinds)
    yield _Limit("in production", lambda offer: offer.withheld, lambda them: f"{them[0].model}: {them[0].withheld}.")
    task = wanted.task or wanted.kind
    if task is not None:
        what = f"for the task {task[:80]!r}" if wanted.task else f"for {task} in general"
        yield _of_names(what, task, lambda offer: offer.tasks)
    if wanted.max_memory_bytes is not None:
        yield _at_most("memory", wanted.max_memory_bytes, lambda offer: offer.memory_bytes, _gigabytes)
    if wanted.min_quality is not None:
        yield _quality(wanted.min_quality)
    if wanted.max_latency_ms is not None:
        yield _at_most("latency", wanted.max_latency_ms, lambda offer: offer.latency_ms, lambda ms: f"{ms:.4g} ms")


def _of_names(what: str, name: str, names: Callable[[Offer], tuple[str, ...]]) -> _Limit:
    def misses(offer: Offer) -> str:
        known = names(offer)
        if name.casefold() in (one.casefold() for one in known):
            return ""
        return f"is for {', '.join(known)}" if known else "nobody says what it is for"

    return _Limit(what, misses, lambda offers: did_you_mean(name, [one for offer in offers for one in names(offer)]))


def _at_most(what: str, most: float, value: Callable[[Offer], float | None], shown: Callable[[float], str]) -> _Limit:
    def misses(offer: Offer) -> str:
        found = value(offer)
        if found is None:
            return f"no {what} is known of it"
        return f"{shown(found)} of {what}, over {shown(most)}" if found > most else ""

    def nearest(offers: Sequence[Offer]) -> str:
        known = [(found, offer.version) for offer in offers if (found := value(offer)) is not None]
        if not known:
            return f"No {what} is known of any of them{', before they have answered' if what == 'latency' else ''}."
        least, version = min(known)
        return f"The nearest is {version} with {shown(least)}."

    return _Limit(f"known to keep to {shown(most)} of {what}", misses, nearest)


def _quality(least: float) -> _Limit:
    def misses(offer: Offer) -> str:
        if offer.quality is None:
            return "it was not evaluated"
        return "" if offer.quality >= least else f"{_shown_quality(offer)}, under {least:g}"

    def nearest(offers: Sequence[Offer]) -> str:
        known = [offer for offer in offers if offer.quality is not None]
        if not known:
            return "None of them was evaluated: llamafarm models record-metrics."
        best = _best(known)
        return f"The nearest is {best.version} with {_shown_quality(best)}."

    return _Limit(f"known to have a quality of {least:g} or more", misses, nearest)


def _best(offers: Sequence[Offer]) -> Offer:
    """The best of some."""
    quality = max(map(_quality_of, offers))
    good = [offer for offer in offers if _quality_of(offer) == quality]
    fastest = min(map(_latency_of, good))
    fast = [offer for offer in good if _latency_of(offer) <= _SAME_LATENCY * fastest]
    return min(fast, key=lambda offer: (_memory_of(offer), bool(offer.base_url), offer.model, offer.base_url))


def _advantage(best: Offer, other: Offer) -> str:
    """Return the best model's advantage over another."""
    if _quality_of(best) != _quality_of(other):
        return f"a higher quality ({_shown_quality(best)} against {_shown_quality(other)})"
    if _latency_of(other) > _SAME_LATENCY * _latency_of(best):
        return f"a lower latency ({_shown_latency(best)} against {_shown_latency(other)})"
    if _memory_of(best) < _memory_of(other):
        return "a smaller need of memory"
    if _latency_of(best) < _latency_of(other):
        return "a latency nearer to the lowest"
    if other.base_url and not best.base_url:
        return "the shorter way"
    return "a name, or address, that is sorted before"


def _quality_of(offer: Offer) -> float:
    return -math.inf if offer.quality is None else offer.quality


def _latency_of(offer: Offer) -> float:
    return math.inf if offer.latency_ms is None else offer.latency_ms


def _memory_of(offer: Offer) -> float:
    return math.inf if offer.memory_bytes is None else offer.memory_bytes


def _shown_quality(offer: Offer) -> str:
    if offer.quality is None:
        return "none"
    return f"{offer.quality:.3g} {offer.quality_metric}".rstrip()


def _shown_latency(offer: Offer) -> str:
    return "none" if offer.latency_ms is None else f"{offer.latency_ms:.4g} ms"


def _gigabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.3g} GB"
