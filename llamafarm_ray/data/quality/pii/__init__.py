"""Personal data and secrets in text: what is recognized, and the step that redacts, drops, tags or counts it."""

from llamafarm_ray.data.quality.pii.find import find_pii, redact
from llamafarm_ray.data.quality.pii.finding import KINDS, Finding
from llamafarm_ray.data.quality.pii.step import HandlePii, HandlePiiInMessages

__all__ = ["KINDS", "Finding", "HandlePii", "HandlePiiInMessages", "find_pii", "redact"]
