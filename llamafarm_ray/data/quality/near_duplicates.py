"""Near duplicates by MinHash: signatures of texts, buckets of texts that share a band of them, exact verification.

Three steps, so that the first can run anywhere: :func:`sign` turns texts into a few numbers each, :func:`candidates`
finds groups that share one, :func:`drop_near_duplicates` compares their texts. The result depends on the set of texts
and their ranks alone. Method: Broder, "On the resemblance and containment of documents" (1997); Leskovec, Rajaraman and
Ullman, "Mining of Massive Datasets", chapter 3.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import rensa

from llamafarm_ray.data.text import normal_form
from llamafarm_ray.text.scripts import UNSPACED_BLOCKS

__all__ = ["Bands", "Signatures", "candidates", "drop_near_duplicates", "jaccard", "near_duplicates", "resolve", "sign"]

_SEED = 1
_MIN_RECALL = 0.97
_SHINGLE_TOKENS = 3
_ODD = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)  # multipliers that spread the bits of a sum
_COMPARE_ALL = 32
_TEXTS_A_CHUNK = 512  # its arrays fit into a processor's cache
_SPACED = str.maketrans(
    {chr(code): " " for code in range(128) if not chr(code).isalnum() and chr(code) not in ".,:$%+-"}
)
# Signs that say nothing: not inside a number or an abbreviation, and not before a digit.
_IDLE = re.compile(r"[.,:$%+-](?:(?<=[.,:])(?:(?![a-z0-9])|(?<![a-z0-9].))|(?<=[$%+-])(?!\d))")
# Scripts that put no space between words; pairs of neighboring characters stand for words there.
_UNSPACED = re.compile(f"[{UNSPACED_BLOCKS}]+")


@dataclass(frozen=True, slots=True)
class Bands:
    """Division of a signature: texts are compared if one of ``count`` bands of ``rows`` hashes is the same."""

    count: int
    rows: int

    @classmethod
    def for_threshold(cls, threshold: float) -> Bands:
        """Return the longest bands in which 97 of 100 pairs as similar as ``threshold`` meet.

        Of 64 hashes; of 128 for small thresholds, where short bands would bring unlike texts together.
        """
        num_hashes = 64 if threshold >= 0.7 else 128
        for rows in range(num_hashes, 1, -1):
            count = num_hashes // rows
            if 1 - (1 - threshold**rows) ** count >= _MIN_RECALL:
                return cls(count, rows)
        return cls(num_hashes, 1)


@dataclass(frozen=True, slots=True)
class Signatures:
    """Signatures of texts.

    Args:
        digests: 16 bytes by text, of what it says; equal for exact duplicates (case, spacing and punctuation apart).
        bands: uint64 array of shape (texts, bands).
    """

    digests: list[bytes]
    bands: npt.NDArray[np.uint64]


def sign(texts: Sequence[str], bands: Bands) -> Signatures:
    """Return the signatures of ``texts``; they don't depend on the other texts, the process or the machine."""
    digests: list[bytes] = []
    tables = [np.empty((0, bands.count), dtype=np.uint64)]
    for start in range(0, len(texts), _TEXTS_A_CHUNK):
        tokens = [_tokens(text) for text in texts[start : start + _TEXTS_A_CHUNK]]
        digests += [_digest(" ".join(words), size=16) for words in tokens]
        hashes, offsets = _shingles(tokens)
        matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, bands.count * bands.rows, _SEED)
        table = np.array(matrix.to_rows(), dtype=np.uint64).reshape(len(tokens), bands.count, bands.rows)
        mixed = np.zeros((len(tokens), bands.count), dtype=np.uint64)
        for row in range(bands.rows):
            mixed = _mix(mixed, table[:, :, row], _ODD[0])
        tables.append(mixed)
    return Signatures(digests, np.concatenate(tables))


def _digest(text: str, *, size: int) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).digest()


def _mix(state: npt.NDArray[np.uint64], values: npt.NDArray[np.uint64], odd: int) -> npt.NDArray[np.uint64]:
    mixed = (state ^ values) * np.uint64(odd)
    mixed ^= mixed >> np.uint64(32)
    return mixed


def _shingles(tokens: Sequence[list[str]]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Return the hashes of all shingles, text by text, and where each text begins (one number more than texts)."""
    lengths = np.fromiter(map(len, tokens), dtype=np.int64, count=len(tokens))
    num_words = int(lengths.sum())
    words = np.zeros(num_words + _SHINGLE_TOKENS - 1, dtype=np.uint64)
    words[:num_words] = np.fromiter(
        itertools.chain.from_iterable(rensa.RMinHash.hash_token_sets(tokens)), dtype=np.uint64, count=num_words
    )
    mixed = np.zeros(num_words, dtype=np.uint64)
    for place, odd in enumerate(_ODD):
        mixed = _mix(mixed, words[place : place + num_words], odd)
    # A shingle at each word but the last two of a text.
    whole = np.maximum(lengths - (_SHINGLE_TOKENS - 1), 0)
    starts = np.cumsum(lengths) - lengths
    chosen = mixed[np.arange(num_words) - np.repeat(starts, lengths) < np.repeat(whole, lengths)]
    short = np.flatnonzero((lengths > 0) & (whole == 0))
    if len(short):  # texts of one or two words have a shingle of that length
        alone = rensa.RMinHash.hash_token_sets([[" ".join(tokens[index])] for index in short.tolist()])
        chosen = np.insert(chosen, (np.cumsum(whole) - whole)[short], np.array(alone, dtype=np.uint64).ravel())
        whole[short] = 1
    return chosen, np.concatenate([[0], np.cumsum(whole)]).astype(np.uint64)


def _tokens(text: str) -> list[str]:
    """Return the words of ``text``, folded, with the signs that numbers and abbreviations have inside."""
    if text.isascii():
        return _IDLE.sub(" ", text.lower().translate(_SPACED)).split()
    said = normal_form(text)
    if not _UNSPACED.search(said):
        return said.split()
    found: list[str] = []
    for word in said.split():
        if _UNSPACED.fullmatch(word) and len(word) > 1:
            found += [word[at : at + 2] for at in range(len(word) - 1)]
        else:
            found.append(word)
    return found


def jaccard(one: str, other: str) -> float:
    """Return the share of shingles (three words each) that two texts have in common, 0.0 to 1.0."""
    return _similarity(_shingle_set(one), _shingle_set(other))


def _shingle_set(text: str) -> frozenset[tuple[str, ...]]:
    tokens = _tokens(text)
    if len(tokens) < _SHINGLE_TOKENS:
        return frozenset([tuple(tokens)] if tokens else [])
    return frozenset(zip(*(tokens[place:] for place in range(_SHINGLE_TOKENS)), strict=False))


def _similarity(one: frozenset[tuple[str, ...]], other: frozenset[tuple[str, ...]]) -> float:
    common = len(one & other)
    return common / (len(one) + len(other) - common) if common else 0.0


def candidates(signatures: npt.NDArray[np.uint64]) -> Iterator[npt.NDArray[np.int64]]:
    """Yield groups of two or more texts that share a band, by their indices in ``signatures`` of (texts, bands)."""
    for band in signatures.T:
        order = np.argsort(band, kind="stable")
        values = band[order]
        borders = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1], [True]]))
        shared = np.flatnonzero(np.diff(borders) > 1)
        for start, end in zip(borders[shared].tolist(), borders[shared + 1].tolist(), strict=True):
            yield order[start:end]


def drop_near_duplicates(
    groups: Iterator[npt.NDArray[np.int64]],
    ranks: npt.NDArray[np.int64],
    text_of: Callable[[int], str],
    *,
    threshold: float,
    may_drop: Callable[[int, int], bool] | None = None,
) -> dict[int, int]:
    """Return the index of each text to drop, with the index of the one that stays for it.

    A text is dropped if one of a smaller rank that stays is at least as similar as ``threshold``.

    Args:
        groups: groups of candidates, see :func:`candidates`.
        ranks: rank by index, all different; the smallest of a pair stays.
        text_of: text by index.
        threshold: least Jaccard similarity of their shingles.
        may_drop: False for a pair (dropped, kept) that is different in another way.
    """
    similar: dict[int, set[int]] = defaultdict(set)
    sets: dict[int, frozenset[tuple[str, ...]]] = {}
    compared: set[tuple[int, int]] = set()

    def shingles(index: int) -> frozenset[tuple[str, ...]]:
        if index not in sets:
            sets[index] = _shingle_set(text_of(index))
        return sets[index]

    for group in groups:
        leaders: list[int] = []
        for index in sorted(map(int, group), key=ranks.__getitem__):
            is_new = True
            for leader in leaders:
                if (leader, index) not in compared:
                    compared.add((leader, index))
                    is_like = _similarity(shingles(leader), shingles(index)) >= threshold
                    if is_like and (may_drop is None or may_drop(index, leader)):
                        similar[index].add(leader)
                is_new = is_new and leader not in similar.get(index, ())
            # In a large bucket of copies a text that is like an earlier one needs no comparison of its own.
            if is_new or len(leaders) < _COMPARE_ALL:
                leaders.append(index)
    return _survivors(similar, ranks)


def _survivors(similar: dict[int, set[int]], ranks: npt.NDArray[np.int64]) -> dict[int, int]:
    dropped: dict[int, int] = {}
    for index in sorted(similar, key=ranks.__getitem__):
        kept = [other for other in similar[index] if other not in dropped]
        if kept:
            dropped[index] = min(kept, key=ranks.__getitem__)
    return dropped


def near_duplicates(
    texts: Sequence[str], *, threshold: float, may_drop: Callable[[int, int], bool] | None = None
) -> dict[int, int]:
    """Return the index of each duplicate in ``texts``, with the index of the one that stays: the earlier ones stay.

    Exact duplicates (case, spacing and punctuation apart) are dropped too.
    """
    signatures = sign(texts, Bands.for_threshold(threshold))
    return resolve(signatures, np.arange(len(texts)), texts.__getitem__, threshold=threshold, may_drop=may_drop)


def resolve(
    signatures: Signatures,
    ranks: npt.NDArray[np.int64],
    text_of: Callable[[int], str],
    *,
    threshold: float,
    may_drop: Callable[[int, int], bool] | None = None,
) -> dict[int, int]:
    """Return the index of each exact and near duplicate, with the index of the one that stays.

    Args:
        signatures: of all texts.
        ranks: see :func:`drop_near_duplicates`.
        text_of: text by index; asked for candidates only.
        threshold: least Jaccard similarity of near duplicates.
        may_drop: see :func:`drop_near_duplicates`; exact duplicates are dropped anyway.
    """
    first: dict[bytes, int] = {}
    dropped: dict[int, int] = {}
    for index in np.argsort(ranks, kind="stable").tolist():
        kept = first.setdefault(signatures.digests[index], index)
        if kept != index:
            dropped[index] = kept
    distinct = np.array(sorted(first.values()), dtype=np.int64)
    groups = (distinct[group] for group in candidates(signatures.bands[distinct]))
    near = drop_near_duplicates(groups, ranks, text_of, threshold=threshold, may_drop=may_drop)
    return {index: near.get(kept, kept) for index, kept in dropped.items()} | near
