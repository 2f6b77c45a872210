"""Places for what jobs write to relative paths.

Ray runs every job with the same working directory in one folder of the node, and in another one as soon as a file of it
changes. So a relative output there would be shared by jobs that have nothing to do with each other, and lost to the
same job when it is submitted again.
"""

from __future__ import annotations

import os
from pathlib import Path

from llamafarm_ray.config import Config, config_digest
from llamafarm_ray.registry.identity import Identity
from llamafarm_ray.workflows.jobs.package import OUTPUTS, plain_name

__all__ = ["own_output"]

_COPIES = "working_dir_files"
"""Ray's name for the folder that holds a node's copies of working directories; see test_job_outputs.py."""
_NUM_DIGITS = 12


def own_output(output: Path, config: Config) -> Path:
    """Return the place of an output: in a Ray job's working directory, a folder of the configuration's own instead.

    It is below ``~/llamafarm-jobs/USER``, so the same configuration finds what an earlier job of it left, whatever else
    is in the working directory.

    Args:
        output: the path that was asked for.
    """
    whole = Path(os.path.normpath(Path.cwd() / output.expanduser()))
    shared = next((folder for folder in whole.parents if folder.parent.name == _COPIES), None)
    if shared is None:
        return output
    key = config_digest(config).hex[:_NUM_DIGITS]
    user = plain_name(Identity.from_environment().user)
    return Path.home() / OUTPUTS / user / f"{config.name}-{key}" / whole.relative_to(shared)
