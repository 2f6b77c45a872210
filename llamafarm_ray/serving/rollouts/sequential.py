"""Sequential tests: evidence that stays valid when it is looked at after every request.

Each function gives the logarithms of likelihood ratios, one for each alternative in :data:`ODDS`, of the outcomes in a
window of time. Added up over windows, and averaged over the alternatives (:func:`log_mixture`), they are a test
supermartingale: while the null hypothesis holds it starts at 1 and is not expected to grow, whatever is looked at and
whenever one stops. So by Ville's inequality the chance that it *ever* reaches ``1 / alpha`` is at most ``alpha``.

The mixture over alternatives is Robbins' (Ann. Math. Statist. 41, 1970); likelihood ratios of counts that are
conditioned on what both variants share are how Lindon and Malek test canaries (Anytime-Valid Inference for Multinomial
Count Data, NeurIPS 2022; Rapid Regression Detection in Software Deployments, KDD 2022); for an introduction see Ramdas,
Gruenwald, Vovk and Shafer (Game-Theoretic Statistics and Safe Anytime-Valid Inference, Statistical Science 38, 2023).

They take requests as independent. One user who sends thousands that all fail counts as thousands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["ODDS", "Logs", "log_mixture", "log_odds_evidence", "log_rate_evidence"]

Logs = npt.NDArray[np.float64]

ODDS = np.array([1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0])
"""The alternatives: how many times the odds that the null hypothesis allows. A candidate that is worse by less than
about a tenth is never told apart from an allowed one."""


def log_odds_evidence(count: int, trials: int, baseline_count: int, baseline_trials: int, *, odds_ratio: float) -> Logs:
    """Evidence that a variant's odds of something are more than ``odds_ratio`` times the baseline's.

    Given how many of all trials had it, how many of those were the variant's follows Fisher's noncentral hypergeometric
    distribution, whose one parameter is the odds ratio: how likely the thing is in itself cancels out, and may change
    from window to window. An outage that hits both variants is no evidence against either. If the true ratio is below
    ``odds_ratio``, the evidence shrinks, as that distribution's likelihood ratio is monotone.

    Args:
        count: number of the variant's trials that had it.
        trials: number of the variant's trials.
        baseline_count: number of the baseline's trials that had it.
        baseline_trials: number of the baseline's trials.
        odds_ratio: allowed ratio of the odds, 1 or more.

    Returns:
        log likelihood ratios, shape ``(len(ODDS),)``.
    """
    total = count + baseline_count
    low, high = max(0, total - baseline_trials), min(total, trials)
    # w(k) = C(trials, k) C(baseline_trials, total - k), up to a factor, from the ratio of peers
    k = np.arange(low, high, dtype=np.float64)
    ratios = (trials - k) * (total - k) / ((k + 1) * (baseline_trials - total + k + 1))
    weights = np.concatenate(([0.0], np.cumsum(np.log(ratios))))
    outcomes = np.arange(low, high + 1, dtype=np.float64)
    allowed = math.log(odds_ratio)
    alternatives = allowed + np.log(ODDS)
    normal = np.logaddexp.reduce(weights + outcomes * allowed)
    others = np.logaddexp.reduce(weights + np.outer(alternatives, outcomes), axis=1)
    evidence: Logs = count * np.log(ODDS) + normal - others
    return evidence


def log_rate_evidence(total: float, trials: int, *, rate: float) -> Logs:
    """Evidence that the mean of values between 0 and 1 is above ``rate``.

    For values that are 0 or 1 it is the binomial likelihood ratio; for others it is a supermartingale too, by convexity
    (a sub-Bernoulli process: Howard, Ramdas, McAuliffe and Sekhon, Time-uniform Chernoff bounds, Probability Surveys
    17, 2020).

    Args:
        total: the values' sum.
        trials: number of the variant's trials.
        rate: allowed rate, above 0 and below 1.

    Returns:
        log likelihood ratios, shape ``(len(ODDS),)``.
    """
    evidence: Logs = total * np.log(ODDS) - trials * np.log1p(rate * (ODDS - 1))
    return evidence


def log_mixture(logs: Sequence[float] | Logs) -> float:
    """The logarithm of the mean of what these are the logarithms of."""
    return float(np.logaddexp.reduce(np.asarray(logs, dtype=np.float64)) - math.log(len(logs)))
