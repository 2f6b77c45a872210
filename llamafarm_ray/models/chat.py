"""A chat as tokens, with a mark on each token that the assistant would have to write.

Where a turn begins is found by rendering the chat turn by turn with the model's own template, never by
searching for strings: a template's markers may occur in the text, or not be the same in every turn.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from llamafarm_ray.errors import UserError

__all__ = [
    "TokenisedChat",
    "check_chat_template",
    "end_of_turn_ids",
    "render_chat",
    "tokenise_answer",
    "tokenise_turns",
]

Messages = Sequence[Mapping[str, str]]
Span = tuple[int, int]


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


@dataclass(frozen=True, slots=True)
class _Turn:
    """An assistant's turn as the last one of its chat: the text of that chat, and where in it the answer is."""

    text: str
    span: Span


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


def tokenise_turns(tokenizer: Any, messages: Messages) -> list[TokenisedChat]:
    """Tokenise a chat so that each answer follows exactly the prompt that inference would give.

    Most templates only append, and the whole chat is one sequence in which every assistant turn is trained. Some render
    earlier turns differently once others follow: they drop an earlier turn's reasoning (Qwen3), or move the system
    prompt to the last question (Mistral). There each assistant turn becomes a sequence of its own, which ends with it
    and has what came before as the template renders it at that point; only its own answer is trained.

    A token that holds any character of an answer counts as the answer's, since a prompt's last space often
    shares a token with the answer's first word. What a template puts after the end-of-turn token, white space or the
    end of the text, is nobody's: at inference the turn has ended before it.

    Returns:
        One chat, or one for each assistant turn, in order; none where there is no assistant turn.

    Raises:
        UserError: there is no template, it refuses the messages, or it doesn't begin an answer as it says that one
            begins.
    """
    text = render_chat(tokenizer, messages)
    turns = list(_answers(tokenizer, messages, text).values())
    if all(_same_history(turn, text) for turn in turns):
        return [_tokenised(tokenizer, text, [turn.span for turn in turns])] if turns else []
    return [_tokenised(tokenizer, turn.text, [turn.span]) for turn in turns]


def tokenise_answer(tokenizer: Any, messages: Messages) -> TokenisedChat:
    """Tokenise a chat that ends with an assistant's turn, and mark the tokens of that turn only.

    Raises:
        UserError: see `tokenise_turns`.
    """
    turn = _answer(tokenizer, messages)
    return _tokenised(tokenizer, turn.text, [turn.span])


def end_of_turn_ids(tokenizer: Any) -> list[int]:
    """Ids of the tokens that end an assistant's turn: the template's own, and the tokenizer's end of text."""
    chat = tokenise_answer(tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    answer = [token for token, trained in zip(chat.input_ids, chat.trained, strict=True) if trained]
    ids = {
        token for token in answer[-1:] if token in tokenizer.all_special_ids or token in tokenizer.added_tokens_decoder
    }
    if tokenizer.eos_token_id is not None:
        ids.add(tokenizer.eos_token_id)
    return sorted(ids)


def _tokenised(tokenizer: Any, text: str, spans: Sequence[Span]) -> TokenisedChat:
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    trained = [any(start < end_ and end > start_ for start_, end_ in spans) for start, end in encoded["offset_mapping"]]
    return TokenisedChat(input_ids=list(encoded["input_ids"]), trained=trained)


def _answers(tokenizer: Any, messages: Messages, text: str) -> dict[int, _Turn]:
    """Each assistant turn of a chat whose whole text is ``text``, by its number, counted from 1."""
    last = len(messages) - 1
    return {
        index + 1: _answer(tokenizer, messages[: index + 1], text if index == last else "")
        for index, message in enumerate(messages)
        if message["role"] == "assistant"
    }


def _answer(tokenizer: Any, messages: Messages, text: str = "") -> _Turn:
    """The last turn of ``messages``, which is an assistant's; ``text`` is their rendering, if it is known."""
    prompt = render_chat(tokenizer, messages[:-1], for_answer=True)
    text = text or render_chat(tokenizer, messages)
    if not text.startswith(prompt):
        raise UserError(
            f"The chat template of {tokenizer.name_or_path!r} does not render turn {len(messages)} as its prompt for "
            "an answer and then the answer, so what the assistant says can't be told from the prompt.",
            hint="Use a template whose add_generation_prompt writes what answers begin with, and no more.",
        )
    return _Turn(text, (len(prompt), _end_of_answer(tokenizer, messages, text)))


def _same_history(turn: _Turn, text: str) -> bool:
    """Whether ``text`` begins with all of that chat up to the answer's end."""
    end = turn.span[1]
    return text[:end] == turn.text[:end]


def _end_of_answer(tokenizer: Any, messages: Messages, text: str) -> int:
    """Where in ``text`` the last turn ends, its end-of-turn token included; after white space where that ends it."""
    tail = _tail(tokenizer, text)
    if not tail:
        return len(text)
    if len(tail) > 1:
        # Several markers: the turn's end, and what closes the text as a whole. The latter goes when others follow.
        try:
            longer = render_chat(tokenizer, [*messages, {"role": "user", "content": "a"}])
        except UserError:
            longer = ""
        before = [end for end in tail if longer.startswith(text[:end])]
        if before:
            return before[-1]
    return tail[-1]


def _tail(tokenizer: Any, text: str) -> list[int]:
    """Where the markers end that ``text`` ends with, with white space between and after them; in order."""
    ends: list[int] = []
    left = text.rstrip()
    while marker := next((marker for marker in _markers(tokenizer) if left.endswith(marker)), ""):
        ends.insert(0, len(left))
        left = left[: -len(marker)].rstrip()
    return ends


@functools.lru_cache(maxsize=4)
def _markers(tokenizer: Any) -> tuple[str, ...]:
    """The tokens that were added to the vocabulary, special or not, the longest first."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values()} - {""}
    return tuple(sorted(added, key=lambda marker: (-len(marker), marker)))
