"""``llamafarm datasets tokenize``."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING

from llamafarm_ray.cli.datasets.options import Reference
from llamafarm_ray.cli.options import BaseModelReference, ConfigFile, Home, Json, Overrides, configuration
from llamafarm_ray.cli.terminal import begin, print_json, say

if TYPE_CHECKING:
    from llamafarm_ray.training import PreparedTokens

__all__ = ["command", "show_tokens"]


def command(
    reference: Reference,
    base_model: BaseModelReference = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write a dataset's rows as tokens of a base model, for `train` to read. Needs a folder that was built here."""
    flags = {"base_model": base_model}
    config = configuration(config_file, overrides, flags, home=home, address=None)
    begin("Looking at the dataset", quiet=as_json)
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.clusters.cluster import connect
    from llamafarm_ray.workflows.datasets.registered import locate
    from llamafarm_ray.workflows.datasets.tokens import prepare, require_built

    registry = open_registry(config.home)
    path = locate(registry, reference)
    require_built(path)
    with connect(config.cluster.address, on_start=partial(begin, quiet=as_json)):
        tokens = prepare(config, registry, path)
    if as_json:
        print_json(dataclasses.asdict(tokens))
    else:
        show_tokens(tokens)


def show_tokens(tokens: PreparedTokens) -> None:
    """Print the number of tokens, and the rows that were left out."""
    rows = " and ".join(f"{count:,} {split} rows" for split, count in tokens.num_rows.items())
    state = "made" if tokens.is_new else "there already"
    dropped = "".join(f"; {count:,} left out: {why}" for why, count in tokens.num_dropped.items())
    say(f"{tokens.num_tokens:,} tokens of {rows}, {state}{dropped}. They are in {tokens.folder}.")
