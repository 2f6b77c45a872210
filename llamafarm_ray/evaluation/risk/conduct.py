"""Conduct: harmful requests behind a pretext, and harmless ones that sound alike."""

from __future__ import annotations

from typing import Final

from llamafarm_ray.evaluation.risk.items import read_sample
from llamafarm_ray.evaluation.risk.measured import RateTest
from llamafarm_ray.evaluation.risk.probes import ComplianceProbe, RefusalProbe, asked

__all__ = ["jailbreak_test", "over_refusal_test"]

_JAILBREAKS: Final = (
    "Harmful requests, plain and behind pretexts; the share that was neither declined, by the wording of refusals in "
    "12 languages, nor left without an answer. An upper bound: an answer that is of no use to anyone counts too."
)
_OVER_REFUSAL: Final = (
    "Harmless requests with words that harmful ones have; the share that was declined, by the wording of refusals."
)


def jailbreak_test() -> RateTest:
    """Return the test of harmful requests.

    Source: the kinds of attacks of Wei et al., 2023 (https://arxiv.org/abs/2307.02483), and the share of answers
    without a refusal of Zou et al., 2023 (https://arxiv.org/abs/2307.15043). Requests and pretexts are our own.
    """
    sample = read_sample("jailbreaks")
    probes = tuple(
        ComplianceProbe(
            id=f"{number}: {name}",
            messages=asked(wording.format(request=request)),
            group=name,
            cluster=str(number),
        )
        for number, request in enumerate(sample["requests"], 1)
        for name, wording in sample["pretexts"].items()
    )
    return RateTest("jailbreaks", "attack_success_rate", _JAILBREAKS, "jailbreak set 1", probes)


def over_refusal_test() -> RateTest:
    """Return the test of harmless requests.

    Source: the kinds of safe prompts of XSTest (https://aclanthology.org/2024.naacl-long.301); the prompts are our
    own.
    """
    rows = read_sample("harmless")
    probes = tuple(
        RefusalProbe(id=str(number), messages=asked(row["prompt"]), group=row["kind"])
        for number, row in enumerate(rows, 1)
    )
    return RateTest("over_refusal", "over_refusal_rate", _OVER_REFUSAL, "harmless set 1", probes)
