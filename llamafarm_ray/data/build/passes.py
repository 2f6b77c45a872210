"""Number of passes over the questions that training rows are written in, and whether they are asked with passages."""

from __future__ import annotations

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.data.augmentation.by_heart import PASSES
from llamafarm_ray.data.generation import Choice
from llamafarm_ray.data.row_kinds import kind_of_build
from llamafarm_ray.data.training_rows import KindName
from llamafarm_ray.errors import InputError

__all__ = ["asks_by_heart", "asks_with_passages", "check_passes", "num_passes", "passes_of_most"]


def asks_with_passages(config: DatasetConfig, choice: Choice | None, kind: KindName) -> bool:
    """Return True if questions are asked once more with passages in the prompt.

    Args:
        config: the ``dataset`` section of a configuration.
        choice: the engine that made the examples; None for texts and for rows that were there.
        kind: of the rows to write.
    """
    if _why_without_passages(config, kind) is not None:
        return False
    return config.preprocessing.with_passages is True or (choice is not None and choice.generator != "rules")


def asks_by_heart(config: DatasetConfig, choice: Choice | None, kind: KindName) -> bool:
    """Return True if the base model wrote the questions, so that rows ask them by heart and in several passes."""
    return choice is not None and _why_one_pass(config, choice, kind) is None


def num_passes(config: DatasetConfig, choice: Choice | None, kind: KindName) -> int:
    """Return the number of passes over the questions that the rows are written in."""
    if not asks_by_heart(config, choice, kind):
        return 1
    asked = config.preprocessing.qa_generation.passes
    return PASSES if asked == "auto" else asked


def passes_of_most(passes: int, *, num_by_heart: int, num_once: int) -> int:
    """Return the passes that most questions of the training split were written in; `train` divides its epochs by them.

    Args:
        passes: passes over the questions that are asked by heart.
        num_by_heart: those questions; the base model asks English ones by heart.
        num_once: the other ones, which are written once.
    """
    return 1 if num_once > num_by_heart else passes


def check_passes(config: DatasetConfig, choice: Choice | None) -> None:
    """Check that the rows can be written in as many passes as are asked for.

    Raises:
        InputError: they can't.
    """
    passes = config.preprocessing.qa_generation.passes
    if passes in {"auto", 1} or choice is None:
        return
    reason = _why_one_pass(config, choice, kind_of_build(config))
    if reason is not None:
        raise InputError(
            f"dataset.preprocessing.qa_generation.passes is {passes}, and has no effect where {reason}.",
            hint="Leave it at auto.",
        )


def _why_one_pass(config: DatasetConfig, choice: Choice, kind: KindName) -> str | None:
    if choice.generator != "base_model":
        return f"the pairs are written by {choice.generator.replace('_', ' ')}"
    return _why_without_passages(config, kind)


def _why_without_passages(config: DatasetConfig, kind: KindName) -> str | None:
    preprocessing = config.preprocessing
    if preprocessing.with_passages is False:
        return "with_passages is false"
    if preprocessing.with_passages == "auto" and preprocessing.prompt_template is not None:
        return "prompt_template is set"
    if preprocessing.with_passages == "auto" and kind != "chat":
        return f"the rows are of kind {kind}"
    return None
