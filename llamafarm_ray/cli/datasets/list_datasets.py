"""``llamafarm datasets list``."""

from __future__ import annotations

from llamafarm_ray.cli.options import Home, Json
from llamafarm_ray.cli.terminal import print_json, say, table

__all__ = ["command"]


def command(home: Home = None, as_json: Json = False) -> None:
    """List the registered datasets with all of their versions."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.datasets.registered import list_datasets

    found = list_datasets(open_registry(home))
    if as_json:
        print_json([one.to_dict() for one in found])
        return
    if not found:
        say("There are no datasets yet. `llamafarm models create-dataset` makes one.")
        return
    columns = ("dataset", "digest", "train", "held out", "documents", "trained", "evaluated", "location")
    rows = [
        (
            one.name if one.is_newest else "",
            one.digest[7:19],
            one.num_train,
            one.num_validation,
            len(one.documents),
            len(one.trained),
            len(one.evaluated),
            "evaluation set" if one.manifest else one.location,
        )
        for one in found
    ]
    table("Datasets", columns, rows)
