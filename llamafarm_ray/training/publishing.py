"""Publication of a run's output by renames: an older output stays until the new one is in its place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from llamafarm_ray.errors import ConflictError, TrainingError
from llamafarm_ray.training.plan.job import RunFolder
from llamafarm_ray.training.result import TrainingResult

__all__ = ["RESULT_FILE", "finish_publication", "publish"]

RESULT_FILE = "training.json"
"""Written last: an output that has it is whole."""


def publish(folder: RunFolder, output: Path, result: TrainingResult, *, overwrite: bool) -> None:
    """Rename what was made to ``output``, with its ``training.json``.

    No file system replaces one folder by another at once, so for a moment neither is in place. A process that is
    stopped there has set the older one aside, and the next start finishes the publication: `finish_publication`.

    Raises:
        TrainingError: the workers wrote to a machine of their own.
        ConflictError: someone else made ``output`` meanwhile.
        OSError: the folders can't be written; an older output is where it was.
    """
    if not any(folder.output.glob("*.safetensors")):
        raise TrainingError(
            f"The first worker wrote to {folder.output} on its machine, which this one does not see.",
            hint="Put the output on storage that all nodes share.",
        )
    text = json.dumps(result.to_dict(), indent=2, allow_nan=False)
    (folder.output / RESULT_FILE).write_text(text + "\n", encoding="utf-8")
    if output.exists() and not overwrite:
        raise ConflictError(f"The output {str(output)!r} was made by someone else meanwhile.")
    try:
        if output.exists():
            output.rename(folder.replaced)
        folder.output.rename(output)
    except BaseException:  # Ctrl-C too: whoever cleans up then may remove the run's folder
        if folder.replaced.exists() and not output.exists():
            folder.replaced.rename(output)
        raise


def finish_publication(folder: RunFolder, output: Path) -> TrainingResult | None:
    """Do what is left of a `publish` in whose middle the process ended.

    Returns:
        The published output; None if nothing was left to do.

    Raises:
        OSError: the folders can't be written.
    """
    if not folder.replaced.exists():
        return None
    result = None
    if not output.exists() and (folder.output / RESULT_FILE).is_file():
        result = TrainingResult.from_dict(json.loads((folder.output / RESULT_FILE).read_text(encoding="utf-8")))
        folder.output.rename(output)
    if output.exists():
        shutil.rmtree(folder.replaced)
    return result
