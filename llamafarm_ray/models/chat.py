"""Chats as tokens, with a mark on each token that the assistant has to write.

The place of a turn is found by rendering the chat turn by turn with the model's own template, never by searching for
strings: a template's markers may occur in the text, or differ from turn to turn. No token reaches from a prompt into
its answer: at inference the prompt is tokenized before there is an answer.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jinja2

from llamafarm_ray.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "TokenisedChat",
    "check_chat_template",
    "continuation_ids",
    "end_of_turn_ids",
    "render_chat",
    "tokenise_answer",
    "tokenise_turns",
]

Messages = Sequence[Mapping[str, Any]]
Span = tuple[int, int]

_TEMPLATE_ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""Errors of a template that refuses a chat, or that meets one it was not written for."""


_EMPTY_THOUGHTS = re.compile(r"\s*<(think|thinking|thought)>\s*</\1>\s*")


@dataclass(frozen=True, slots=True)
class TokenisedChat:
    """A chat's tokens.

    Args:
        input_ids: the whole chat, as the template renders it.
        trained: of the same length; true where the token belongs to an assistant turn that is trained, its
            end-of-turn token included.
    """

    input_ids: list[int]
    trained: list[bool]


@dataclass(frozen=True, slots=True)
class _Turn:
    """An assistant turn at the end of its chat: the text of that chat, and the answer's place in it."""

    text: str
    span: Span
    trained: bool = True


def check_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that the tokenizer has a chat template.

    Raises:
        UserError: it has none.
    """
    if not tokenizer.chat_template:
        raise UserError(
            f"The tokenizer of {tokenizer.name_or_path!r} has no chat template, so messages can't be turned into text.",
            hint="Put the template of the model's chat variant into the folder as chat_template.jinja.",
        )


def render_chat(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, *, for_answer: bool = False, tools: str | None = None
) -> str:
    """Return the text of a chat; with ``for_answer`` it ends where the assistant's next turn begins.

    Args:
        messages: the turns; tool calls are JSON text, as rows of a dataset have them.
        for_answer: True if the assistant's next turn follows.
        tools: the tools that the assistant has, as JSON text.

    Raises:
        UserError: there is no template, it refuses these messages, or it leaves out tools, calls or results.
    """
    check_chat_template(tokenizer)
    turns = [_template_turn(message) for message in messages]
    given = {"tools": json.loads(tools)} if tools else {}
    try:
        text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=for_answer, **given)
    except _TEMPLATE_ERRORS as error:
        roles = ", ".join(message["role"] for message in messages)
        raise UserError(
            f"The chat template of {tokenizer.name_or_path!r} refuses a chat of the roles {roles}: {error}",
            hint="Change the rows' roles, or the template.",
        ) from error
    _check_tools(tokenizer, text, turns, given.get("tools", []))
    return text


def _template_turn(message: Mapping[str, Any]) -> dict[str, object]:
    """Return a turn as templates take it."""
    turn = {"role": message["role"], "content": message["content"]}
    if message.get("tool_calls"):
        turn["tool_calls"] = json.loads(message["tool_calls"])
    return turn | {name: message[name] for name in ("name", "tool_call_id") if message.get(name)}


def _check_tools(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    turns: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
) -> None:
    """Check that the template wrote all that has to do with tools: many templates know none.

    Raises:
        UserError: naming what it left out.
    """
    left_out = [f"the tool {name!r}" for tool in tools if (name := tool["function"]["name"]) not in text]
    for index, turn in enumerate(turns):
        called = (call["function"]["name"] for call in turn.get("tool_calls", ()))
        left_out += [f"the call of {name!r} in turn {index + 1}" for name in called if name not in text]
        if turn["role"] == "tool":
            said = turn["content"].strip()
            if (
                said not in text
                and json.dumps(said)[1:-1] not in text
                and json.dumps(said, ensure_ascii=False) not in text
            ):
                left_out.append(f"the result of a tool in turn {index + 1}")
    if left_out:
        raise UserError(
            f"The chat template of {tokenizer.name_or_path!r} leaves out {left_out[0]}, so it can't be trained.",
            hint="Choose a base model whose template has tools, or remove the rows with tools.",
        )


def tokenise_turns(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, tools: str | None = None
) -> list[TokenisedChat]:
    """Tokenize a chat so that each answer follows exactly the prompt that inference would give, token by token.

    Most templates only append, and the whole chat is one sequence in which every assistant turn is trained. In two
    cases each trained assistant turn becomes a sequence of its own, after exactly the prompt that the template renders
    for it. Some templates render earlier turns differently once others follow: they drop an earlier turn's reasoning
    (Qwen3), or move the system prompt to the last question (Mistral). And a tokenizer may merge the end of a prompt
    with the beginning of the answer, such as two line ends.

    An assistant turn with ``"train": False`` is context only, and so is an empty block of thoughts that a template puts
    before an answer. Text that a template writes after the end-of-turn token,
    such as white space, is not trained: at inference the turn has ended before it.

    Returns:
        One chat, or one for each trained assistant turn, in order; none where there is no assistant turn to train.

    Raises:
        UserError: there is no template, it refuses the messages, or it doesn't begin an answer as it says that one
            begins.
    """
    text = render_chat(tokenizer, messages, tools=tools)
    wanted = [turn for turn in _answers(tokenizer, messages, text, tools) if turn.trained]
    if not wanted:
        return []
    if all(_same_history(turn, text) for turn in wanted):
        whole = _tokenised_whole(tokenizer, text, wanted)
        if whole is not None:
            return [whole]
    return [_tokenised_alone(tokenizer, turn) for turn in wanted]


def tokenise_answer(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> TokenisedChat:
    """Tokenize a chat that ends with an assistant turn, and mark the tokens of that turn only.

    Raises:
        UserError: see `tokenise_turns`.
    """
    return _tokenised_alone(tokenizer, _answer(tokenizer, messages))


def end_of_turn_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the tokens that end an assistant's turn: the template's own, and the tokenizer's end of text."""
    chat = tokenise_answer(tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    answer = [token for token, trained in zip(chat.input_ids, chat.trained, strict=True) if trained]
    ids = {
        token for token in answer[-1:] if token in tokenizer.all_special_ids or token in tokenizer.added_tokens_decoder
    }
    if tokenizer.eos_token_id is not None:
        ids.add(tokenizer.eos_token_id)
    return sorted(ids)


def _tokenised_alone(tokenizer: PreTrainedTokenizerBase, turn: _Turn) -> TokenisedChat:
    """Tokenize a turn after its prompt; the two apart where a token would belong to both."""
    whole = _tokenised_whole(tokenizer, turn.text, [turn])
    if whole is not None:
        return whole
    start, end = turn.span
    prompt = list(tokenizer(turn.text[:start], add_special_tokens=False)["input_ids"])
    answer = continuation_ids(tokenizer, turn.text[start:end])
    return TokenisedChat(prompt + answer, [False] * len(prompt) + [True] * len(answer))


def _tokenised_whole(tokenizer: PreTrainedTokenizerBase, text: str, turns: Sequence[_Turn]) -> TokenisedChat | None:
    """Tokenize a text at once; None where a token reaches into an answer of ``turns``, or out of one.

    Otherwise the tokens before an answer are those of the prompt alone: a tokenizer that puts a boundary there does not
    look across it.
    """
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = list(encoded["input_ids"]), encoded["offset_mapping"]
    trained = [False] * len(ids)
    for first, last in (turn.span for turn in turns):
        for index, (start, end) in enumerate(offsets):
            # Some end-of-turn tokens take the white space after them.
            if start < first < end or (start < last < end and ids[index] not in tokenizer.added_tokens_decoder):
                return None
            trained[index] = trained[index] or (start < last and end > first)
    return TokenisedChat(ids, trained)


def continuation_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokenize a text that goes on from another one, without the space that some tokenizers put before a text."""
    for before in ("\n", "a", ":") if _adds_space(tokenizer) else ("",):
        encoded = tokenizer(before + text, add_special_tokens=False, return_offsets_mapping=True)
        places = [index for index, (_, end) in enumerate(encoded["offset_mapping"]) if end > len(before)]
        if places and encoded["offset_mapping"][places[0]][0] >= len(before):
            return list(encoded["input_ids"][places[0] :])
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _adds_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return True if the tokenizer puts a space before a text: SentencePiece's tokenizers, and some of BPE's."""
    first: str = tokenizer.tokenize("a")[0]
    return first.startswith(("\u2581", "\u0120"))  # the signs that stand for a space


def _answers(tokenizer: PreTrainedTokenizerBase, messages: Messages, text: str, tools: str | None) -> list[_Turn]:
    """Return each assistant turn of a chat whose whole text is ``text``."""
    last = len(messages) - 1
    return [
        _answer(tokenizer, messages[: index + 1], text if index == last else "", tools)
        for index, message in enumerate(messages)
        if message["role"] == "assistant"
    ]


def _answer(tokenizer: PreTrainedTokenizerBase, messages: Messages, text: str = "", tools: str | None = None) -> _Turn:
    """Return the last turn of ``messages``, an assistant's; ``text`` is their rendering, if it is known."""
    prompt = render_chat(tokenizer, messages[:-1], for_answer=True, tools=tools)
    text = text or render_chat(tokenizer, messages, tools=tools)
    if not text.startswith(prompt):
        raise UserError(
            f"The chat template of {tokenizer.name_or_path!r} does not render turn {len(messages)} as its prompt for "
            "an answer and then the answer, so what the assistant says can't be told from the prompt.",
            hint="Use a template whose add_generation_prompt writes what answers begin with, and no more.",
        )
    end = _end_of_answer(tokenizer, messages, text, tools)
    _check_said(tokenizer, messages, text[len(prompt) : end])
    span = (_after_empty_thoughts(text, len(prompt), messages[-1]["content"]), end)
    return _Turn(text, span, trained=messages[-1].get("train") is not False)


def _after_empty_thoughts(text: str, start: int, content: str) -> int:
    """Return the place behind an empty block of thoughts that a template puts before an answer; else ``start``.

    Qwen3 writes one before each answer without thoughts. Where it was trained, the model would learn not to think.

    Args:
        start: end of the prompt.
        content: what the assistant says in the chat. A block that is in it is trained.
    """
    found = _EMPTY_THOUGHTS.match(text, start)
    return start if found is None or _EMPTY_THOUGHTS.match(content) else found.end()


def _check_said(tokenizer: PreTrainedTokenizerBase, messages: Messages, answer: str) -> None:
    """Check that a template wrote something of an answer: one that leaves it out would train end markers only."""
    content = messages[-1]["content"].strip()
    if content in answer:
        return
    if _without_markers(tokenizer, content) and not _without_markers(tokenizer, answer):
        raise UserError(
            f"The chat template of {tokenizer.name_or_path!r} leaves out what the assistant says in turn "
            f"{len(messages)}, so there is nothing to train: {content[:60]!r}.",
            hint="Use the template of the model's chat variant.",
        )


def _without_markers(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    for marker in _markers(tokenizer):
        text = text.replace(marker, "")
    return text.strip()


def _same_history(turn: _Turn, text: str) -> bool:
    """Return True if ``text`` begins with all of that chat up to the answer's end."""
    end = turn.span[1]
    return text[:end] == turn.text[:end]


def _end_of_answer(tokenizer: PreTrainedTokenizerBase, messages: Messages, text: str, tools: str | None) -> int:
    """Return the end of the last turn in ``text``, with its end-of-turn token; after white space where that ends it."""
    tail = _tail(tokenizer, text)
    if not tail:
        return len(text)
    if len(tail) > 1:
        # Several markers: the turn's end, and what closes the text as a whole. The latter goes when others follow.
        try:
            longer = render_chat(tokenizer, [*messages, {"role": "user", "content": "a"}], tools=tools)
        except UserError:
            longer = ""
        before = [end for end in tail if longer.startswith(text[:end])]
        if before:
            return before[-1]
    return tail[-1]


def _tail(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the ends of the markers at the end of ``text``, with white space between and after them; in order."""
    ends: list[int] = []
    left = text.rstrip()
    while marker := next((marker for marker in _markers(tokenizer) if left.endswith(marker)), ""):
        ends.insert(0, len(left))
        left = left[: -len(marker)].rstrip()
    return ends


@functools.lru_cache(maxsize=4)
def _markers(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """The tokens that were added to the vocabulary, special or not, the longest first."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values()} - {""}
    return tuple(sorted(added, key=lambda marker: (-len(marker), marker)))
