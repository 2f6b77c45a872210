"""A chat as tokens, with a mark on each token that the assistant would have to write.

Where a turn begins is found by rendering the chat turn by turn with the model's own template, never by
searching for strings: a template's markers may occur in the text, or not be the same in every turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from llamafarm_ray.errors import UserError

__all__ = ["TokenisedChat", "check_chat_template", "end_of_turn_ids", "render_chat", "tokenise_chat"]

Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class TokenisedChat:
    """A chat's tokens.

    Args:
        input_ids: the whole chat, as the template renders it.
        trained: of the same length; true where the token belongs to what an assistant turn says, its
            end-of-turn token included.
    """

    input_ids: list[int]
    trained: list[bool]


def check_chat_template(tokenizer: Any) -> None:
    """Check that the tokenizer has a chat template.

    Raises:
        UserError: it has none.
    """
    if not tokenizer.chat_template:
        raise UserError(
            f"The tokenizer of {tokenizer.name_or_path!r} has no chat template, so messages can't be turned into text.",
            hint="Put the template of the model's chat variant into the folder as chat_template.jinja.",
        )


def render_chat(tokenizer: Any, messages: Messages, *, for_answer: bool = False) -> str:
    """The text of a chat; with ``for_answer`` it ends where the assistant's next turn begins.

    Raises:
        UserError: there is no template, or it refuses these messages.
    """
    check_chat_template(tokenizer)
    try:
        text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=for_answer)
    except jinja2.TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise UserError(
            f"The chat template of {tokenizer.name_or_path!r} refuses a chat of the roles {roles}: {error}",
            hint="Change the rows' roles, or the template.",
        ) from error
    return text


def tokenise_chat(tokenizer: Any, messages: Messages) -> TokenisedChat:
    """Tokenise a chat and mark the tokens of the assistant's turns.

    A token that holds any character of an answer counts as the answer's, since a prompt's last space often
    shares a token with the answer's first word. White space that a template puts after the end-of-turn
    token is nobody's: at inference the turn has ended before it.

    Raises:
        UserError: there is no template, it refuses the messages, or it renders a turn differently once others follow.
    """
    text = render_chat(tokenizer, messages)
    spans = _answer_spans(tokenizer, messages, text)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    trained = [any(start < end_ and end > start_ for start_, end_ in spans) for start, end in encoded["offset_mapping"]]
    return TokenisedChat(input_ids=list(encoded["input_ids"]), trained=trained)


def end_of_turn_ids(tokenizer: Any) -> list[int]:
    """Ids of the tokens that end an assistant's turn: the template's own, and the tokenizer's end of text."""
    chat = tokenise_chat(tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    answer = [token for token, trained in zip(chat.input_ids, chat.trained, strict=True) if trained]
    ids = {
        token for token in answer[-1:] if token in tokenizer.all_special_ids or token in tokenizer.added_tokens_decoder
    }
    if tokenizer.eos_token_id is not None:
        ids.add(tokenizer.eos_token_id)
    return sorted(ids)


def _answer_spans(tokenizer: Any, messages: Messages, text: str) -> list[tuple[int, int]]:
    """Where in ``text`` each assistant turn's answer begins and ends, in characters."""
    spans = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = render_chat(tokenizer, messages[:index], for_answer=True)
        turn = render_chat(tokenizer, messages[: index + 1])
        if not turn.startswith(prompt) or not text.startswith(turn):
            raise UserError(
                f"The chat template of {tokenizer.name_or_path!r} renders turn {index + 1} differently once other "
                "turns follow it, so what the assistant says can't be told from the prompt.",
                hint="Use rows with one answer each, or a template that only appends.",
            )
        spans.append((len(prompt), _without_trailing_space(tokenizer, turn)))
    return spans


def _without_trailing_space(tokenizer: Any, turn: str) -> int:
    """The length of ``turn`` up to its end-of-turn token; all of it where white space is what ends a turn."""
    stripped = turn.rstrip()
    markers = {token.content for token in tokenizer.added_tokens_decoder.values()}
    return len(stripped) if any(stripped.endswith(marker) for marker in markers) else len(turn)
