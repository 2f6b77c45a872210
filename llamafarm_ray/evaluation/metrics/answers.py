"""Answers against accepted ones: exact match, token F1, contains and numeric match, for any script."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence

from llamafarm_ray.text.scripts import UNSPACED
from llamafarm_ray.text.tokens import word_tokens

__all__ = ["contains", "exact_match", "holds", "normalized_words", "numeric_match", "token_f1", "word_strings"]

_ARTICLES = frozenset({"a", "an", "the"})
_NUMBER = re.compile(r"[-+]?\d+(?:[.,:'\u2019]\d+)*(?:[eE][-+]?\d+)?")
_LETTER = rf"[^\W_{UNSPACED}]"
_WHOLE_NUMBER = re.compile(rf"(?<!{_LETTER})(?<!\d[.,])-?\d+(?:[.,:]\d+)*(?!{_LETTER}|[.,:]\d)")
_GROUPED = re.compile(r"\d{1,3}(?:[,'\u2019.]\d{3})+")
_GROUPED_BY_COMMA = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_RELATIVE_TOLERANCE = 1e-6


def normalized_words(text: str) -> list[str]:
    """Return the words that exact match and F1 compare: lower case, without punctuation and English articles.

    Source: the normalization of SQuAD (Rajpurkar et al., 2016, https://aclanthology.org/D16-1264). It goes beyond
    ASCII: punctuation of all scripts is removed, and letters of scripts without spaces are words. Unlike there,
    numbers stand alone and keep sign, decimal point and colon, so that -5 is not 5, nor 3.5 the same as 35.
    """
    text = unicodedata.normalize("NFKC", text).casefold().replace("\u2212", "-")
    text = _GROUPED_BY_COMMA.sub(lambda number: number[0].replace(",", ""), text)
    words: list[str] = []
    end = 0
    for number in _WHOLE_NUMBER.finditer(text):
        words += _plain_words(text[end : number.start()])
        words.append(number[0])
        end = number.end()
    words += _plain_words(text[end:])
    kept = [word for word in words if word not in _ARTICLES]
    return kept or words


def _plain_words(text: str) -> Iterator[str]:
    for part in text.split():
        bare = "".join(character for character in part if unicodedata.category(character)[0] not in "PS")
        if bare:
            yield from word_tokens(bare)


def exact_match(answer: str, accepted: Sequence[str]) -> float:
    """Return 1.0 if an answer equals an accepted one after `normalized_words`, else 0.0.

    Source: SQuAD (https://aclanthology.org/D16-1264).
    """
    said = _words(answer)
    return float(any(said == _words(one) for one in accepted))


def token_f1(answer: str, accepted: Sequence[str]) -> float:
    """Return the F1 of the words shared with the best accepted answer, 0 to 1; see `normalized_words`.

    Source: SQuAD (https://aclanthology.org/D16-1264).
    """
    said = Counter(_words(answer))
    return max((_f1(said, Counter(_words(one))) for one in accepted), default=0.0)


def contains(answer: str, accepted: Sequence[str]) -> float:
    """Return 1.0 if the words of an accepted answer occur in an answer, one after another, else 0.0.

    Source: ``has_answer`` of DPR (Karpukhin et al., 2020, https://aclanthology.org/2020.emnlp-main.550). Whole words
    are compared, so that "no" is not in "know", and 12 not in 1,200. An accepted answer that is empty is in none.
    """
    said = word_strings(answer)
    return float(any(holds(said, word_strings(one)) for one in accepted))


def word_strings(text: str) -> tuple[str, str]:
    """Return the words of a text as `contains` compares them, for `holds`: with compounds whole, and split."""
    return _joined(_words(text)), _joined(_split_at_hyphens(text))


def holds(text: tuple[str, str], part: tuple[str, str]) -> bool:
    """Return True if the words of a part occur in a text, one after another; both as `word_strings` returns them."""
    return any(bool(words.strip()) and words in whole for whole, words in zip(text, part, strict=True))


def _joined(words: Sequence[str]) -> str:
    return f" {' '.join(words)} "


def numeric_match(answer: str, accepted: Sequence[str]) -> float:
    """Return 1.0 if the last number of an answer is that of an accepted one, else 0.0.

    Source: the flexible extraction of GSM8K in lm-evaluation-harness (https://arxiv.org/abs/2110.14168). Digits of
    any script count. Where a spelling has two readings ("1,000" is a thousand or one), either may match.
    """
    said = _last_number(answer)
    return float(any(_is_same(one, other) for text in accepted for one in _last_number(text) for other in said))


def _words(text: str) -> list[str]:
    # A text of symbols alone is compared by them.
    return normalized_words(text) or word_tokens(text)


def _split_at_hyphens(text: str) -> list[str]:
    return _words(re.sub(r"(?<=\w)[-\u2010-\u2015/](?=\w)", " ", text))


def _f1(said: Counter[str], known: Counter[str]) -> float:
    if not said or not known:
        return float(said == known)
    shared = (said & known).total()
    return 2 * shared / (said.total() + known.total())


def _last_number(text: str) -> tuple[float | str, ...]:
    """Return the values that the last number of a text may have; none if there is no number."""
    text = unicodedata.normalize("NFKC", text).replace("\u2212", "-")
    text = "".join(str(unicodedata.digit(one, one)) for one in text)
    found = _NUMBER.findall(re.sub(r"(?<=[^\W_])-(?=\d)", " ", text))
    return tuple(_values(found[-1])) if found else ()


def _values(number: str) -> Iterator[float | str]:
    """Yield the readings of a spelling; of one that is no number, such as 8:00 or 1.2.3, itself."""
    mantissa, _, exponent = number.lower().replace("\u2019", "'").partition("e")
    sign, digits = ("-" if mantissa.startswith("-") else ""), mantissa.lstrip("+-")
    readings = [digits.replace(",", ".")]
    if _GROUPED.fullmatch(digits):
        readings.append(re.sub(r"\D", "", digits))
    parts = re.fullmatch(r"(.+)[.,](\d+)", digits)
    if parts and _GROUPED.fullmatch(parts[1]):  # 1,234.50
        readings.append(re.sub(r"\D", "", parts[1]) + "." + parts[2])
    for reading in readings:
        try:
            value = float(f"{sign}{reading}e{exponent or 0}")
        except ValueError:
            yield number
            continue
        if math.isfinite(value):
            yield value


def _is_same(one: float | str, other: float | str) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return math.isclose(one, other, rel_tol=_RELATIVE_TOLERANCE, abs_tol=1e-12)
