"""Steps: small classes with one contract (:class:`Step`), whose base class counts rows in, out and dropped."""

from llamafarm_ray.data.steps.base import Dropped, Kept, Ledger, Step, StepCounts
from llamafarm_ray.data.steps.check import CheckLength, CheckSubstance
from llamafarm_ray.data.steps.clean import Clean
from llamafarm_ray.data.steps.deduplicate import Deduplicate
from llamafarm_ray.data.steps.language import DetectLanguage
from llamafarm_ray.data.steps.limit import LimitQuestions
from llamafarm_ray.data.steps.passages import SplitPassages
from llamafarm_ray.data.steps.support import MIN_SUPPORT, CheckSupport
from llamafarm_ray.data.steps.texts import JoinTexts

__all__ = [
    "MIN_SUPPORT",
    "CheckLength",
    "CheckSubstance",
    "CheckSupport",
    "Clean",
    "Deduplicate",
    "DetectLanguage",
    "Dropped",
    "JoinTexts",
    "Kept",
    "Ledger",
    "LimitQuestions",
    "SplitPassages",
    "Step",
    "StepCounts",
]
