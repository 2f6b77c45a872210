"""``llamafarm models schema``."""

from __future__ import annotations

from llamafarm_ray.cli.terminal import print_json

__all__ = ["command"]


def command() -> None:
    """Print the configuration's JSON Schema, for editors."""
    from llamafarm_ray.config import json_schema

    print_json(json_schema())
