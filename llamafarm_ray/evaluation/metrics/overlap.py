"""Overlap of answers with references: BLEU, chrF and ROUGE, for any script."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache

from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import Tokenizer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from sacrebleu.tokenizers.tokenizer_char import TokenizerChar
from sacrebleu.tokenizers.tokenizer_intl import TokenizerV14International
from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh

from llamafarm_ray.text.scripts import HAN, UNSPACED
from llamafarm_ray.text.tokens import word_tokens

__all__ = ["bleu", "chrf", "rouge_1", "rouge_2", "rouge_l"]

_UNSPACED_LETTER = re.compile(f"[{UNSPACED}]")
_HAN_LETTER = re.compile(f"[{HAN}]")

References = Sequence[Sequence[str]]
"""The accepted answers of each example, at least one each."""


def bleu(answers: Sequence[str], references: References) -> float:
    """Return corpus BLEU, 0 to 100.

    Source: Papineni et al., 2002 (https://aclanthology.org/P02-1040), as sacrebleu computes it
    (https://aclanthology.org/W18-6319) with effective order, so that an answer of one word can be right. Each
    example is tokenized by the script of its references: ``13a`` for ASCII, ``zh`` for Chinese, ``char`` for other
    scripts without spaces, ``intl`` for the rest.
    """
    if _are_equal(answers, references):
        return 100.0
    split = [_tokenizer("".join(accepted)) for accepted in references]
    said = [tokenize(_line(answer)) for tokenize, answer in zip(split, answers, strict=True)]
    known = [[tokenize(_line(one)) for one in accepted] for tokenize, accepted in zip(split, references, strict=True)]
    return _score(BLEU(tokenize="none", force=True, effective_order=True), said, known)


def chrf(answers: Sequence[str], references: References) -> float:
    """Return corpus chrF2, 0 to 100: the overlap of characters, which needs no tokenizer.

    Source: Popović, 2015 (https://aclanthology.org/W15-3049), as sacrebleu computes it.
    """
    if _are_equal(answers, references):
        return 100.0
    return _score(CHRF(), list(map(_line, answers)), [list(map(_line, accepted)) for accepted in references])


def rouge_1(answer: str, references: Sequence[str]) -> float:
    """Return the F1 of single words against the best reference, 0 to 1.

    Source: Lin, 2004 (https://aclanthology.org/W04-1013), as Google's ``rouge_score`` computes it, with words of any
    script (`word_tokens`).
    """
    return _rouge("rouge1", answer, references)


def rouge_2(answer: str, references: Sequence[str]) -> float:
    """Return the F1 of pairs of words against the best reference, 0 to 1.

    Source: as `rouge_1`. An answer of one word that equals a reference is 1.
    """
    return _rouge("rouge2", answer, references)


def rouge_l(answer: str, references: Sequence[str]) -> float:
    """Return the F1 of the longest common subsequence of words against the best reference, 0 to 1.

    Source: as `rouge_1`.
    """
    return _rouge("rougeL", answer, references)


def _rouge(kind: str, answer: str, references: Sequence[str]) -> float:
    words = word_tokens(answer)
    if any(words == word_tokens(reference) for reference in references):
        return 1.0
    scores = (_scorer(kind).score(reference, answer)[kind].fmeasure for reference in references)
    return float(max(scores, default=0.0))


class _Words(Tokenizer):  # type: ignore[misc]  # read without its types
    def tokenize(self, text: str) -> list[str]:
        return word_tokens(text)


@cache
def _scorer(kind: str) -> RougeScorer:
    return RougeScorer([kind], tokenizer=_Words())


def _score(metric: BLEU | CHRF, answers: Sequence[str], references: References) -> float:
    most = max(map(len, references))
    # sacrebleu wants the n-th reference of all examples together, and None where there are fewer.
    streams = [[accepted[at] if at < len(accepted) else None for accepted in references] for at in range(most)]
    return float(metric.corpus_score(list(answers), streams).score)


def _are_equal(answers: Sequence[str], references: References) -> bool:
    return all(
        answer.strip() in {one.strip() for one in accepted}
        for answer, accepted in zip(answers, references, strict=True)
    )


def _line(text: str) -> str:
    return " ".join(text.split())


def _tokenizer(text: str) -> Callable[[str], str]:
    kinds = _tokenizers()
    if text.isascii():
        return kinds["13a"]
    letters = _UNSPACED_LETTER.findall(text)
    if not letters:
        return kinds["intl"]
    return kinds["zh" if all(_HAN_LETTER.match(letter) for letter in letters) else "char"]


@cache
def _tokenizers() -> dict[str, Callable[[str], str]]:
    return {
        "13a": Tokenizer13a(),
        "intl": TokenizerV14International(),
        "zh": TokenizerZh(),
        "char": TokenizerChar(),
    }
