"""Splits of texts before byte pairs are merged: llama.cpp's names for them, recognized by a tokenizer's behavior.

A GGUF file names its split (``tokenizer.ggml.pre``) instead of describing it. The expressions are those of llama.cpp's
``llama-vocab.cpp``, in the spelling of the models that they were taken from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokenizers import Regex, pre_tokenizers

from llamafarm_ray.errors import UnsupportedError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["PRE_TOKENIZERS", "PROBES", "PreTokenizer", "named_pre_tokenizer", "recognized_pre_tokenizer"]

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_QWEN2 = rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_QWEN35 = rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"
_MARKS = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_TEKKEN = rf"{_BEFORE}{_UPPER}*{_LOWER}+|{_BEFORE}{_UPPER}+{_LOWER}*|\p{{N}}|{_MARKS}|{_SPACES}"
_GPT4O = (
    rf"{_BEFORE}{_UPPER}*{_LOWER}+{_ENDINGS}?|{_BEFORE}{_UPPER}+{_LOWER}*{_ENDINGS}?|\p{{N}}{{1,3}}|{_MARKS}|{_SPACES}"
)
_DEEPSEEK = (
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    (
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
        rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"
    ),
)


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """A split of texts.

    Attributes:
        name: llama.cpp's name.
        splits: expressions, applied one after the other; parts that they don't match stay whole.
        ignores_merges: True if a part that is a token is taken whole, whatever its merges give.
        adds_bos: True if llama.cpp begins texts with the first token where the file doesn't say.
        aliases: other names of the same.
    """

    name: str
    splits: tuple[str, ...]
    ignores_merges: bool = False
    adds_bos: bool = False
    aliases: frozenset[str] = frozenset()

    def build(self) -> pre_tokenizers.Sequence:
        """Return it as a part of a ``tokenizers`` tokenizer."""
        parts = [pre_tokenizers.Split(Regex(split), behavior="isolated") for split in self.splits]
        return pre_tokenizers.Sequence([*parts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


PRE_TOKENIZERS = (
    PreTokenizer(
        "gpt-2",
        (_GPT2,),
        aliases=frozenset({"mpt", "olmo", "jais", "phi-2", "jina-es", "jina-de", "gigachat", "trillion", "a.x-4.0"}),
    ),
    PreTokenizer(
        "smollm",
        (r"\p{N}", _GPT2),
        aliases=frozenset({"starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}),
    ),
    PreTokenizer(
        "llama-bpe",
        (_LLAMA3,),
        ignores_merges=True,
        adds_bos=True,
        aliases=frozenset({"llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"}),
    ),
    PreTokenizer("smaug-bpe", (_LLAMA3,), aliases=frozenset({"dbrx", "glm4", "chatglm-bpe"})),
    PreTokenizer(
        "qwen2",
        (_QWEN2,),
        aliases=frozenset({"stablelm2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "hunyuan"}),
    ),
    PreTokenizer("qwen35", (_QWEN35,)),
    PreTokenizer("tekken", (_TEKKEN,), ignores_merges=True, adds_bos=True),
    PreTokenizer("gpt-4o", (_GPT4O,), aliases=frozenset({"llama4", "kanana2"})),
    PreTokenizer("deepseek-v3", _DEEPSEEK, aliases=frozenset({"hunyuan-dense"})),
    PreTokenizer("falcon", (r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, r"[0-9][0-9][0-9]")),
    PreTokenizer("default", (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
)
"""All that are known, the usual ones first."""

PROBES = (
    "Hello world, it's 5 o'clock; WE'LL GO, I'd say: they've 1234567 of 89.",
    "CamelCaseWords iPhone XMLHttpRequest snake_case kebab-case path/to/file.py C++ $9.99 <b>tag</b> a`b`c",
    "tabs\tand  two   three    four spaces \n\n  newline,\r\nwindows.\n \n\nend   ",
    "Gr\u00fc\u00dfe aus K\u00f6ln, \u0160koda na\u00efve e\u0301galite\u0301, \u00bd \u00b2 \u2167",
    "\u0663\u0664\u0665 \u0e51 \u4f60\u597d\u4e16\u754c\uff0c\u4eca\u5929\u662f2024\u5e745\u67081\u65e5\u3002",
    "\u30c6\u30b9\u30c8\u3067\u3059 \ud55c\uad6d \u0939\u093f\u0928\u094d\u0926\u0940 \u0e2a\u0e27\u0e31\u0e2a",
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 !?...--- /// ### **bold** \\n (\u00e0 la carte)",
    "\u201cquotes\u201d \u2014 \u20ac5 \U0001f999\U0001f33e x=1;y=[2,3]//c\n/d\n",
    "don'T CAN'T 'twas 's 'S ''re 007 3.14159 1,000,000 0x1F v2.10.3 \u01c5 \u02b0 \u00aa",
)
"""Texts in which the splits differ."""


def named_pre_tokenizer(name: str) -> PreTokenizer:
    """Return the split of that name.

    Raises:
        UnsupportedError: it is not known.
    """
    found = next((one for one in PRE_TOKENIZERS if name == one.name or name in one.aliases), None)
    if found is None:
        raise UnsupportedError(
            f"The file splits texts by {name[:80]!r} (tokenizer.ggml.pre), which is not known here; "
            f"{', '.join(one.name for one in PRE_TOKENIZERS)} are.",
            hint="Serve the file as it is, with engine gguf.",
        )
    return found


def recognized_pre_tokenizer(backend: Tokenizer) -> PreTokenizer:
    """Return the split that parts the probe texts as a tokenizer does.

    Args:
        backend: a tokenizer of the ``tokenizers`` library.

    Raises:
        UnsupportedError: none does; the message has the text that the nearest one parts otherwise.
    """
    expected = [backend.pre_tokenizer.pre_tokenize_str(text) for text in PROBES]
    ignores_merges = bool(getattr(backend.model, "ignore_merges", False))
    most_alike, wrong = -1, ""
    for one in PRE_TOKENIZERS:
        if one.ignores_merges != ignores_merges:
            continue
        split = one.build()
        alike = [split.pre_tokenize_str(text) == parts for text, parts in zip(PROBES, expected, strict=True)]
        if all(alike):
            return one
        if sum(alike) > most_alike:
            most_alike, wrong = sum(alike), f"{one.name}, but for {PROBES[alike.index(False)]!r}"
    raise UnsupportedError(
        f"The tokenizer splits texts in a way that llama.cpp has no name for; the nearest is {wrong}.",
        hint="Serve the model with vLLM or transformers instead.",
    )
