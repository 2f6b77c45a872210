"""Cluster that the work runs on."""

from __future__ import annotations

from pydantic import Field

from llamafarm_ray.config.sections.base import Section

__all__ = ["Cluster"]


class Cluster(Section):
    """The Ray cluster that the work runs on."""

    address: str | None = Field(
        default=None,
        min_length=1,
        description="Address of a running Ray cluster, e.g. '10.0.0.1:6379' or 'auto'; "
        "'local' starts Ray on this machine. Without one, $RAY_ADDRESS holds; "
        "without that, the Ray of `llamafarm up`, else one that is started.",
    )
