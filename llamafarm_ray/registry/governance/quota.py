"""Quota of a namespace: limits of device hours, tokens and stored bytes."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Quota"]


class Quota(BaseModel):
    """Limits of a namespace. An empty quota limits nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device_hours: float | None = Field(
        default=None, ge=0, le=1e9, description="Hours of GPUs, or of CPU cores without one, in a calendar month (UTC)."
    )
    tokens_per_day: int | None = Field(
        default=None, ge=0, le=10**15, description="Tokens of prompts and answers on a day (UTC)."
    )
    storage_bytes: int | None = Field(
        default=None, ge=0, le=2**60, description="Bytes of the versions whose files are kept."
    )

    @property
    def is_empty(self) -> bool:
        """True if it limits nothing."""
        return self == Quota()
