"""Records of a deployment's requests."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from llamafarm_ray.config.sections.base import Section, Unused

__all__ = ["Journal"]


class Journal(Section):
    """Sketches of requests, and samples of them where they are asked for."""

    sketches: bool = Field(
        default=True,
        description="Count lengths, languages, topics, refusals and the like of requests; no text is kept.",
    )
    sample_rate: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of the requests that is kept with its answers, personal data and secrets redacted; at most "
        "100 of each version, replica and day. The log-probabilities of their answers are sketched too.",
    )
    keep_days: int = Field(default=60, ge=1, le=3650, description="Days after which records are removed.")

    def unused(self) -> Mapping[str, Unused]:
        """Return ``sample_rate`` if there are no sketches to draw samples from."""
        if self.sketches:
            return {}
        return {"sample_rate": Unused("sketches", "has no effect while {1} is false; remove it, or set {1} to true.")}
