"""Sweeps: which keys are searched over which values, how, and for how long."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema

from llamafarm_ray.config.sections.base import Mistake, Section, Unused
from llamafarm_ray.config.values import FrozenMapping

__all__ = ["Domain", "DomainKind", "EarlyStopping", "Mode", "PopulationBasedTraining", "Scheduler", "Search", "Tuning"]

DomainKind = Literal["choice", "grid", "uniform", "log_uniform", "quniform", "int", "log_int"]
Search = Literal["random", "grid", "optuna"]
Scheduler = Literal["none", "asha", "pbt"]
Mode = Literal["auto", "min", "max"]

_KINDS: Final[tuple[str, ...]] = get_args(DomainKind)
_SPELLINGS: Final = {"loguniform": "log_uniform", "randint": "int", "lograndint": "log_int", "values": "choice"}
"""Ray Tune's and others' names for the same."""
_LISTS: Final = ("choice", "grid")
_BUDGET_FORM: Final = r"(\d{1,5})\s*([smhd])"
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_EXAMPLE: Final = "{log_uniform: [1e-5, 1e-3]} or {choice: [8, 16]}"


@dataclass(frozen=True, slots=True)
class Domain:
    """The values that one key is tried with.

    Attributes:
        kind: ``choice`` and ``grid`` list them; the others draw numbers between two ends: evenly (``uniform``,
            ``quniform`` in steps, ``int``) or evenly in their logarithm (``log_uniform``, ``log_int``).
        values: the list, or lower end, upper end and, for ``quniform``, the step; both ends belong to it.
    """

    kind: DomainKind
    values: tuple[Any, ...]

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read ``{kind: [values]}``; a plain list is a choice.

        Raises:
            ValueError: it has another form, or the ends are no range.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, list | tuple):
            value = {"choice": value}
        if not isinstance(value, Mapping) or len(value) != 1:
            raise ValueError(f"must be one kind of values, such as {_EXAMPLE}")
        ((name, given),) = value.items()
        kind = _SPELLINGS.get(str(name), str(name))
        if kind not in _KINDS:
            raise ValueError(f"must be of a kind that exists ({', '.join(_KINDS)}; {str(name)[:40]!r} is none)")
        if not isinstance(given, list | tuple) or not given:
            raise ValueError(f"must be {kind} with a list, such as {_EXAMPLE}")
        values = tuple(_frozen(one) for one in given)
        if kind in _LISTS:
            _check_list(values)
        else:
            _check_range(kind, values)
        return cls(kind, values)  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, object]:
        """As it is written."""
        return {self.kind: [_thawed(one) for one in self.values]}

    @property
    def is_list(self) -> bool:
        """True if all values are listed, instead of the ends of a range."""
        return self.kind in _LISTS


def _frozen(value: object) -> object:
    """Lists as tuples, so that nothing in a configuration can be changed."""
    if isinstance(value, list | tuple):
        return tuple(_frozen(one) for one in value)
    return FrozenMapping(value) if isinstance(value, dict) else value


def _thawed(value: object) -> object:
    """Tuples as lists, as JSON has them."""
    return [_thawed(one) for one in value] if isinstance(value, tuple) else value


def _check_list(values: tuple[object, ...]) -> None:
    for number, one in enumerate(values):
        if any(one == other and type(one) is type(other) for other in values[:number]):
            raise ValueError(f"must be values that are all different ({str(one)[:40]!r} is there twice)")


def _check_range(kind: str, values: tuple[Any, ...]) -> None:
    count = 3 if kind == "quniform" else 2
    whole = kind in {"int", "log_int"}
    wanted = int if whole else int | float
    if len(values) != count or not all(isinstance(one, wanted) and not isinstance(one, bool) for one in values):
        ends = "two whole numbers" if whole else "lower end, upper end and step" if count > 2 else "two numbers"
        raise ValueError(f"must be {kind} with {ends} ({list(values)!r} are not)"[:200])
    low, high = values[:2]
    if low >= high:
        raise ValueError(f"must be {kind} with the lower end first ({low} is not below {high})")
    if kind.startswith("log_") and low <= 0:
        raise ValueError(f"must be {kind} above 0 ({low} has no logarithm)")
    if count > 2 and not 0 < values[2] <= high - low:
        raise ValueError(f"must be quniform with a step that fits between {low} and {high} ({values[2]} does not)")


def _flat(value: object) -> object:
    """Flatten keys, which may be dotted, nested or both; the last value of a key holds."""
    if not isinstance(value, Mapping):
        return value
    found: dict[str, object] = {}
    for name, below in value.items():
        if isinstance(below, Mapping) and below and not _is_domain(below):
            inner = _flat(below)
            assert isinstance(inner, Mapping)  # a mapping stays one
            found |= {f"{name}.{key}": one for key, one in inner.items()}
        else:
            found[str(name)] = below
    return found


def _is_domain(value: Mapping[object, object]) -> bool:
    return any(_SPELLINGS.get(str(name), str(name)) in _KINDS for name in value)


def _check_budget(value: str) -> str:
    match = re.fullmatch(_BUDGET_FORM, value.strip())
    if match is None or int(match[1]) == 0:
        raise ValueError("must be a length of time such as 30m, 90s, 12h or 2d")
    return value.strip()


DomainField = Annotated[
    Domain,
    PlainValidator(Domain.parse),
    PlainSerializer(Domain.to_dict, return_type=dict[str, Any]),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "array", "minItems": 1},
                {
                    "type": "object",
                    "minProperties": 1,
                    "maxProperties": 1,
                    "properties": {kind: {"type": "array", "minItems": 1} for kind in sorted({*_KINDS, *_SPELLINGS})},
                },
            ]
        }
    ),
]


class EarlyStopping(Section):
    """Early stopping of trials that do worse than others (schedulers asha and pbt)."""

    first_after: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="Share of the longest trial's training rows after which trials are compared first; with pbt "
        "after each such share.",
    )
    reduction_factor: int = Field(
        default=3,
        ge=2,
        le=16,
        description="Of so many trials one goes on; the next comparison is after so many times as many rows (asha).",
    )


class PopulationBasedTraining(Section):
    """Population-based training: the worst trials continue the best ones' weights with new settings (scheduler pbt)."""

    quantile: float = Field(
        default=0.25, gt=0, le=0.5, description="Share of the trials that count as the worst, and as the best."
    )
    resample_probability: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="Share of settings that are drawn again; the others are changed a little from the better trial's.",
    )


class Tuning(Section):
    """A sweep: many trainings with different settings, of which the best is kept."""

    parameters: Annotated[Mapping[str, DomainField], BeforeValidator(_flat), AfterValidator(FrozenMapping)] = Field(
        default_factory=FrozenMapping,
        description="Keys of this configuration and the values to try, such as "
        "{fine_tuning.training.learning_rate: {log_uniform: [1e-5, 1e-3]}, fine_tuning.parameters.r: {choice: "
        "[8, 16]}}; empty: what suits model, data and hardware.",
    )
    search: Search = Field(
        default="optuna", description="Way to choose values; optuna: by the results of earlier trials (TPE)."
    )
    scheduler: Scheduler = Field(
        default="asha",
        description="Treatment of trials that do worse than others at the same point: asha stops them, pbt replaces "
        "them by ones that go on from a better trial's weights with other settings.",
    )
    metric: str = Field(default="validation_loss", min_length=1, description="Deciding metric of a run's result.")
    mode: Mode = Field(default="auto", description="Direction of the metric, low or high; 'auto': low if it is a loss.")
    num_trials: int | None = Field(
        default=None,
        ge=1,
        le=100000,
        description="Trials in all; unset: 20, or as many as the budget allows. With pbt those that train at a time; "
        "unset: 8.",
    )
    max_concurrent: int | None = Field(
        default=None, ge=1, le=10000, description="Most trials at once; unset: what the cluster has room for."
    )
    budget: (
        Annotated[
            str,
            AfterValidator(_check_budget),
            WithJsonSchema({"type": "string", "pattern": rf"^\s*{_BUDGET_FORM}\s*$"}),
        ]
        | None
    ) = Field(default=None, description="Longest time in all, such as 30m or 12h; unset: no limit.")
    early_stopping: EarlyStopping = Field(
        default_factory=EarlyStopping, description="Points at which trials are compared and stopped."
    )
    pbt: PopulationBasedTraining = Field(
        default_factory=PopulationBasedTraining, description="Way in which worse trials learn from better ones (pbt)."
    )
    keep_models: int = Field(
        default=1,
        ge=1,
        le=10000,
        description="Of so many of the best trials the weights stay in the sweep's folder.",
    )

    @property
    def budget_s(self) -> float | None:
        """``budget`` in seconds."""
        if self.budget is None:
            return None
        match = re.fullmatch(_BUDGET_FORM, self.budget)
        assert match is not None  # the field's own check
        return float(int(match[1]) * _SECONDS[match[2]])

    @property
    def lower_is_better(self) -> bool:
        """True if the best trial has the lowest metric."""
        return "loss" in self.metric or "perplexity" in self.metric if self.mode == "auto" else self.mode == "min"

    def mistakes(self) -> Iterator[Mistake]:
        """PBT changes settings in the middle of a training, which has to be asked for."""
        if self.scheduler == "pbt" and not self.parameters:
            yield Mistake(("scheduler", "parameters"), "is pbt, which needs {1}: what may change during a training.")

    def unused(self) -> Mapping[str, Unused]:
        """Nothing is stopped early without a scheduler, and each scheduler has settings of its own."""
        reason = Unused("scheduler", f"has no effect with {{1}} {self.scheduler}.")
        used = {"asha": ("early_stopping",), "pbt": ("early_stopping", "pbt")}.get(self.scheduler, ())
        sections: dict[str, type[Section]] = {"early_stopping": EarlyStopping, "pbt": PopulationBasedTraining}
        unused = [f"{name}.{key}" for name, kind in sections.items() if name not in used for key in kind.model_fields]
        if self.scheduler == "pbt":
            unused.append("early_stopping.reduction_factor")
        return dict.fromkeys(unused, reason)
