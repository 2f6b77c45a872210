"""The beginning-of-sequence token in what lm-eval asks: as the model was trained, and never twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamafarm_ray.errors import InputError

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from transformers import PreTrainedTokenizerBase

__all__ = ["fix_prefix", "wants_prefix"]

_PROBE = "The answer"


def wants_prefix(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return True if texts for this tokenizer begin with its beginning-of-sequence token."""
    bos = tokenizer.bos_token_id
    if bos is None:
        return False
    declared = getattr(tokenizer, "add_bos_token", None)
    ids = tokenizer(_PROBE)["input_ids"]
    return bool(declared) or bool(ids and ids[0] == bos)


def fix_prefix(lm: LM, tokenizer: PreTrainedTokenizerBase, *, has_template: bool) -> None:
    """Make lm-eval's texts begin with one such token if the model takes one, and with none if it does not.

    A chat template may write the token itself; then the tokenizer must not add another.

    Raises:
        InputError: it can't be made so.
    """
    bos = tokenizer.bos_token_id
    if bos is None:
        return
    wanted = wants_prefix(tokenizer)
    probe = _PROBE
    if has_template:
        probe = lm.apply_chat_template([{"role": "user", "content": _PROBE}])
        wanted = wanted or probe.startswith(tokenizer.bos_token)
    for setting in (lm.add_bos_token, wanted):
        lm.add_bos_token = setting
        if _leading(lm.tok_encode(probe), bos) == int(wanted):
            return
    number = _leading(lm.tok_encode(probe), bos)
    raise InputError(
        f"Prompts would begin with {number} tokens {tokenizer.bos_token!r}, not {int(wanted)}.",
        hint="Look at add_bos_token of tokenizer_config.json, and at the chat template.",
    )


def _leading(ids: list[int], token: int) -> int:
    return next((number for number, one in enumerate(ids) if one != token), len(ids))
