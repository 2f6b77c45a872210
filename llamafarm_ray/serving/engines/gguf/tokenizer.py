"""A GGUF file's own tokenizer, in the form that transformers' have as far as the routes ask for it.

Texts become tokens in llama.cpp, which is what the file was made for; tokens become texts here, from the file's list.
"""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tokenizers import AddedToken
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.utils.chat_template_utils import render_jinja_template

from llamafarm_ray.errors import InputError, UnsupportedError, UserError
from llamafarm_ray.models.token_bound import TokenBound

__all__ = ["GgufTokenizer"]

_CONTROL, _USER_DEFINED, _BYTE = 3, 4, 6
"""Of llama.cpp's token types, those whose tokens are spelled in another way than its kind of tokenizer has it."""
_BYTE_LEVEL = frozenset({"gpt2"})
_PIECES = frozenset({"llama", "t5", "bert"})
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""Sentencepiece's character for a space."""
_NUM_BYTES = 256
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")

Encode = Callable[[str, bool], list[int]]
"""Gives a text's token ids, with the model's tokens around a text or without."""


class GgufTokenizer:
    """See the module's text.

    Args:
        name: of the file, for messages.
        encode: llama.cpp's tokenizer.

    Raises:
        InputError: the file has no tokenizer.
        UnsupportedError: it has one whose tokens can't be spelled here.
    """

    def __init__(self, facts: Mapping[str, Any], name: str, encode: Encode) -> None:
        tokens: Any = facts.get("tokenizer.ggml.tokens")
        types: Any = facts.get("tokenizer.ggml.token_type")
        kind = facts.get("tokenizer.ggml.model")
        if not _are(str, tokens) or not _are(int, types) or len(types) != len(tokens):
            raise InputError(f"{name!r} has no tokenizer.", hint="Convert the model again, tokenizer included.")
        if kind not in _BYTE_LEVEL | _PIECES:
            known = ", ".join(sorted(_BYTE_LEVEL | _PIECES))
            raise UnsupportedError(f"{name!r} has a tokenizer of kind {kind!r}; engine gguf knows {known}.")
        template = facts.get("tokenizer.chat_template")
        self.name_or_path = name
        self.chat_template = template if isinstance(template, str) else None
        ids = {key: facts.get(f"tokenizer.ggml.{key}_token_id") for key in ("bos", "eos")}
        known_ids = {key: token for key, token in ids.items() if isinstance(token, int) and 0 <= token < len(tokens)}
        self.eos_token_id = known_ids.get("eos")
        self._special = {f"{key}_token": tokens[token] for key, token in known_ids.items()}
        self._tokens: list[str] = tokens
        self._control = frozenset(index for index, kind in enumerate(types) if kind == _CONTROL)
        self._spelled = frozenset(index for index, kind in enumerate(types) if kind in {_CONTROL, _USER_DEFINED})
        self._bytes = frozenset(index for index, kind in enumerate(types) if kind == _BYTE)
        self._letters = {letter: byte for byte, letter in bytes_to_unicode().items()} if kind in _BYTE_LEVEL else None
        self._encode = encode
        spells_all = kind in _BYTE_LEVEL or (kind == "llama" and len(self._bytes) == _NUM_BYTES)
        longest = max(len(self._spelling(token)) for token in range(len(tokens)))
        self.token_bound = TokenBound(max(1, longest), skips_space=True) if spells_all else None

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self._tokens)

    def __call__(self, text: str, **options: Any) -> dict[str, list[Any]]:
        """A text's tokens, ``input_ids``, and where in it they are, ``offset_mapping``, where that is asked for.

        Raises:
            UserError: it is asked for, and the tokens spell another text.
        """
        tokens = self._encode(text, bool(options.get("add_special_tokens", True)))
        if options.get("return_offsets_mapping"):
            return {"input_ids": tokens, "offset_mapping": self._offsets(text, tokens)}
        return {"input_ids": tokens}

    @property
    def all_special_ids(self) -> list[int]:
        """The tokens that are no text."""
        return sorted(self._control)

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The tokens that are found in a text before all others."""
        return {token: AddedToken(self._tokens[token], special=token in self._control) for token in self._spelled}

    def decode(self, tokens: Iterable[int], *, skip_special_tokens: bool = False, **_: object) -> str:
        """The text of some tokens; bytes that are no letter become U+FFFD."""
        shown = (token for token in tokens if not (skip_special_tokens and token in self._control))
        return b"".join(map(self._spelling, shown)).decode(errors="replace")

    def convert_ids_to_tokens(self, tokens: Iterable[int]) -> list[str]:
        """Tokens as the file spells them."""
        return [self._tokens[token] for token in tokens]

    def tokenize(self, text: str) -> list[str]:
        """A text's tokens as the file spells them."""
        return self.convert_ids_to_tokens(self._encode(text, False))

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        tokenize: bool,
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, object]] | None = None,
        continue_final_message: bool = False,
    ) -> str:
        """The text of a chat, as transformers renders templates.

        Raises:
            jinja2.TemplateError: the template refuses the messages.
        """
        assert not tokenize  # transformers' default, which nobody here asks for
        rendered, _ = render_jinja_template(
            [list(messages)],
            chat_template=self.chat_template,
            add_generation_prompt=add_generation_prompt,
            tools=list(tools) if tools else None,
            continue_final_message=continue_final_message,
            **self._special,
        )
        return str(rendered[0])

    def _offsets(self, text: str, tokens: Sequence[int]) -> list[tuple[int, int]]:
        """The first letter that a token has a byte of, and the one after its last."""
        spelled = b"".join(map(self._spelling, tokens))
        num_before = len(spelled) - len(text.encode())  # some tokenizers put a space before a text
        if num_before < 0 or spelled != b" " * num_before + text.encode():
            raise UserError(f"The tokens of a text spell another one, by the tokenizer of {self.name_or_path!r}.")
        ends = list(itertools.accumulate(len(letter.encode()) for letter in text))
        places = [-num_before, *itertools.accumulate(len(self._spelling(token)) for token in tokens)]
        places[1:] = [place - num_before for place in places[1:]]
        return [
            (bisect.bisect_right(ends, begin), bisect.bisect_left(ends, end) + 1 if end > 0 else 0)
            for begin, end in itertools.pairwise(places)
        ]

    def _spelling(self, token: int) -> bytes:
        text = self._tokens[token]
        if token in self._spelled:
            return text.encode()
        if token in self._bytes and (match := _BYTE_TOKEN.fullmatch(text)):
            return bytes([int(match[1], 16)])
        if self._letters is None:
            return text.replace(_SPACE, " ").encode()
        if not all(letter in self._letters for letter in text):
            return text.encode()  # as llama.cpp has it
        return bytes(self._letters[letter] for letter in text)


def _are(kind: type, values: object) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(value, kind) for value in values)
