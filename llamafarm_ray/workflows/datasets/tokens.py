"""Tokens of a built dataset for a base model, kept in its folder."""

from __future__ import annotations

from pathlib import Path

from llamafarm_ray import training
from llamafarm_ray.config import Config
from llamafarm_ray.data import Splits, open_dataset
from llamafarm_ray.data.reading import describe_built, is_built
from llamafarm_ray.errors import InputError
from llamafarm_ray.registry import RegistryApi
from llamafarm_ray.workflows.inspection.base import usable_base

__all__ = ["prepare", "require_built", "token_store"]

_FOLDER = "_tokens"
"""Names with an underscore are passed over where rows are read."""


def prepare(config: Config, registry: RegistryApi, path: Path) -> training.PreparedTokens:
    """Tokenize a built dataset for ``base_model``, unless that was done before. Needs a connected Ray.

    Args:
        config: ``base_model``, ``fine_tuning``, ``dataset.preprocessing.max_length`` and ``seed`` are used.
        registry: registry for a base model.

    Raises:
        InputError: the base model or the rows are unusable.
        UserError: the chat template can't be trained with.
        StorageError: the folder can't be written.
    """
    require_built(path)
    splits = open_dataset(path, split_ratio=config.dataset.validation.split_ratio, seed=config.seed)
    store = token_store(path, splits, config)
    assert store is not None  # it was built here
    return training.prepare_tokens(
        config,
        train_rows=splits.train,
        validation_rows=splits.validation,
        base_model=usable_base(config.base_model, registry).folder,
        store=store,
    )


def require_built(path: Path) -> None:
    """Check that a dataset is a folder with room for tokens.

    Raises:
        InputError: it was not built here.
    """
    if not is_built(path):
        raise InputError(
            f"{str(path)!r} was not built here, so it has no place for tokens.",
            hint="Make a folder of it: llamafarm datasets merge DATASET --output FOLDER.",
        )


def token_store(path: Path, splits: Splits, config: Config) -> training.TokenStore | None:
    """Return the place of a dataset's tokens; None for one that was not built here.

    Args:
        config: says which rows are held out where the dataset itself holds out none.
    """
    if not is_built(path):
        return None
    rows = splits.digest
    if not describe_built(path).num_rows["validation"]:
        rows += f" {config.dataset.validation.split_ratio or 0} {config.seed}"
    return training.TokenStore(path / _FOLDER, rows)
