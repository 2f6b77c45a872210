"""Search for the next values: at random, one after the other, or by earlier trials."""

from __future__ import annotations

import random
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Final

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState

from llamafarm_ray.config import Domain
from llamafarm_ray.tuning.journal import Record, State
from llamafarm_ray.tuning.space import Space, sample

__all__ = ["GridSearch", "OptunaSearch", "RandomSearch", "Searcher", "make_search"]

_PATIENCE: Final = 20
"""Times that a sampler may propose values tried before."""


class Searcher(ABC):
    """Proposes values and learns how they did.

    Args:
        seed: of every random choice.
    """

    def __init__(self, space: Space, seed: int) -> None:
        self._space = space
        self._seed = seed

    @abstractmethod
    def propose(self, number: int, attempt: int) -> dict[str, object] | None:
        """Values for a trial; None if there are no more.

        Args:
            attempt: from 0; counts proposals for this trial that were tried already, and so are not wanted.
        """

    def tell(self, record: Record) -> None:  # noqa: B027 - most have nothing to learn
        """A trial has ended."""

    def remember(self, records: Iterable[Record]) -> None:
        """Take in trials of earlier sessions, and trials that were not proposed."""
        for record in records:
            self.tell(record)


class RandomSearch(Searcher):
    """Independent draws; what trial 17 draws depends on the seed and 17 alone."""

    def propose(self, number: int, attempt: int) -> dict[str, object] | None:
        """See `Searcher.propose`."""
        rng = random.Random(f"{self._seed}/{number}/{attempt}")
        return {key: sample(domain, rng) for key, domain in self._space.domains.items()}


class GridSearch(Searcher):
    """Every combination once. Tried ones are proposed again, and the caller skips them."""

    def __init__(self, space: Space, seed: int) -> None:
        super().__init__(space, seed)
        self._points = space.grid()

    def propose(self, number: int, attempt: int) -> dict[str, object] | None:
        """See `Searcher.propose`."""
        del number, attempt
        return next(self._points, None)


class OptunaSearch(Searcher):
    """Optuna's TPE sampler (tree-structured Parzen estimator, Bergstra et al. 2011): values near those of good trials.

    Values of trials that run count as bad ones (constant liar), so that trials that run at once differ. Trials that
    were stopped early count by how they did until then. Trial by trial the seed decides; which trials have ended when
    the next one is proposed depends on the cluster, so sweeps with several trials at once may differ from run to run.
    """

    def __init__(self, space: Space, seed: int, *, lower_is_better: bool) -> None:
        super().__init__(space, seed)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._distributions = {key: _distribution(domain) for key, domain in space.domains.items()}
        self._direction = StudyDirection.MINIMIZE if lower_is_better else StudyDirection.MAXIMIZE
        self._study = self._new_study(0)
        self._random = RandomSearch(space, seed)
        self._asked: dict[int, optuna.trial.Trial] = {}

    def _new_study(self, num_known: int) -> optuna.Study:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                seed=(self._seed + num_known) % 2**32, multivariate=True, group=True, constant_liar=True
            )
        return optuna.create_study(direction=self._direction, sampler=sampler)

    def propose(self, number: int, attempt: int) -> dict[str, object] | None:
        """See `Searcher.propose`; a random draw if the sampler repeats a trial."""
        if number in self._asked:
            self._study.tell(self._asked.pop(number), state=TrialState.FAIL)
        if attempt >= _PATIENCE:
            return self._random.propose(number, attempt)
        trial = self._asked[number] = self._study.ask(self._distributions)
        return {key: _value(self._space.domains[key], found) for key, found in trial.params.items()}

    def tell(self, record: Record) -> None:
        """See `Searcher.tell`. Values that no trial got (they had no effect) are removed."""
        asked = self._asked.pop(record.number, None)
        if asked is not None:
            self._study.tell(asked, state=TrialState.FAIL)
        state = {State.FINISHED: TrialState.COMPLETE, State.STOPPED: TrialState.PRUNED}.get(record.state)
        if state is None or (state is TrialState.COMPLETE and record.value is None):
            return
        domains = self._space.domains
        self._study.add_trial(
            optuna.trial.create_trial(
                state=state,
                value=record.value if state is TrialState.COMPLETE else None,
                params={key: _param(domains[key], one) for key, one in record.values.items()},
                distributions={key: self._distributions[key] for key in record.values},
                intermediate_values=dict(record.points),
            )
        )

    def remember(self, records: Iterable[Record]) -> None:
        """See `Searcher.remember`; a session that goes on draws other numbers than the one before."""
        known = list(records)
        self._study = self._new_study(len(known))
        super().remember(known)


def make_search(name: str, space: Space, seed: int, *, lower_is_better: bool) -> Searcher:
    """The search of ``tuning.search``.

    Raises:
        ConfigError: the space has no end of values, and a grid was asked for.
    """
    if name == "grid":
        return GridSearch(space, seed)
    if name == "random":
        return RandomSearch(space, seed)
    return OptunaSearch(space, seed, lower_is_better=lower_is_better)


def _distribution(domain: Domain) -> BaseDistribution:
    if domain.is_list:
        return CategoricalDistribution(range(len(domain.values)))  # by position: values may be lists
    low, high = domain.values[:2]
    if domain.kind in {"int", "log_int"}:
        return IntDistribution(low, high, log=domain.kind == "log_int")
    if domain.kind == "quniform":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says that the upper end is rounded to a step
            return FloatDistribution(low, high, step=domain.values[2])
    return FloatDistribution(low, high, log=domain.kind == "log_uniform")


def _value(domain: Domain, found: Any) -> object:
    if domain.is_list:
        return domain.values[found]
    return float(f"{found:.6g}") if isinstance(found, float) else found


def _param(domain: Domain, value: object) -> object:
    if not domain.is_list:
        return value
    return next(index for index, one in enumerate(domain.values) if one == value and type(one) is type(value))
