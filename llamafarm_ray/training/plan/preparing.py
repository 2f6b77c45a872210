"""Tokens made ahead of training: a dataset's rows with a base model's tokenizer and template, checked and kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ray.data

from llamafarm_ray.config import Config
from llamafarm_ray.training.objectives import find_objective
from llamafarm_ray.training.plan.choosing import choose_max_length
from llamafarm_ray.training.plan.planning import check_inputs
from llamafarm_ray.training.tokens.token_files import TokenSettings, TokenStore
from llamafarm_ray.training.tokens.tokenised import tokenise

__all__ = ["PreparedTokens", "prepare_tokens"]


@dataclass(frozen=True, slots=True)
class PreparedTokens:
    """Tokens of a dataset for one base model.

    Attributes:
        num_rows: rows by split.
        num_dropped: rows left out, by reason.
        is_new: False if all of them were there already.
    """

    folder: Path
    num_rows: dict[str, int]
    num_tokens: int
    num_dropped: dict[str, int]
    is_new: bool


def prepare_tokens(
    config: Config,
    *,
    train_rows: ray.data.Dataset,
    validation_rows: ray.data.Dataset | None,
    base_model: Path,
    store: TokenStore,
) -> PreparedTokens:
    """Tokenize rows as `llamafarm_ray.training.train` would, and keep the tokens for it.

    Args:
        config: ``fine_tuning``, ``seed`` and ``dataset.preprocessing.max_length`` are used.
        train_rows: rows with the objective's columns.
        validation_rows: likewise.
        store: keeps the tokens.

    Raises:
        InputError: the base model or the rows are unusable, or no row can be trained on.
        UserError: the chat template is missing, can't render the rows, or leaves out what the assistant says.
        StorageError: the tokens can't be written.
    """
    objective_settings = config.fine_tuning.objective_settings
    objective = find_objective(config.fine_tuning.objective, objective_settings)
    architecture = check_inputs(config, objective, base_model, has_validation=validation_rows is not None)
    max_length = choose_max_length(config, architecture, [])
    settings = TokenSettings.of(base_model, objective, objective_settings, max_length=max_length, seed=config.seed)
    splits: Mapping[str, ray.data.Dataset | None] = {"training": train_rows, "validation": validation_rows}
    num_rows: dict[str, int] = {}
    num_dropped: dict[str, int] = {}
    num_tokens, is_new = 0, False
    for name, rows in splits.items():
        if rows is None:
            continue
        tokens = store.load(settings, name)
        if tokens is None:
            is_new = True
            made = tokenise(
                rows, base_model=base_model, objective=objective, max_length=max_length, seed=config.seed, name=name
            )
            tokens = store.save(settings, name, made)
        num_rows[name] = tokens.num_rows
        num_tokens += tokens.num_tokens
        for reason, count in tokens.num_dropped.items():
            num_dropped[reason] = num_dropped.get(reason, 0) + count
    return PreparedTokens(store.folder, num_rows, num_tokens, num_dropped, is_new)
