"""Near duplicates by MinHash: signatures of texts, buckets of texts that share a band of them, exact verification.

Three steps, so that the first can run anywhere: :func:`sign` turns texts into a few numbers each, :func:`candidates`
finds groups that share one, :func:`drop_near_duplicates` compares their texts. The result depends on the set of texts
and their ranks alone. Method: Broder, "On the resemblance and containment of documents" (1997); Leskovec, Rajaraman and
Ullman, "Mining of Massive Datasets", chapter 3.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import rensa

from llamafarm_ray.data.quality.shingles import Hashes, mixed, shingles_in_chunks

__all__ = ["Bands", "Signatures", "candidates", "drop_near_duplicates", "jaccard", "near_duplicates", "resolve", "sign"]

_SEED = 1
_MIN_RECALL = 0.97
_COMPARE_ALL = 32


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
    for shingles in shingles_in_chunks(texts):
        digests += shingles.digests
        offsets = shingles.offsets.astype(np.uint64)
        matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
            shingles.hashes, offsets, bands.count * bands.rows, _SEED
        )
        rows = itertools.chain.from_iterable(matrix.to_rows())
        size = len(shingles.digests) * bands.count * bands.rows
        table = np.fromiter(rows, dtype=np.uint64, count=size).reshape(-1, bands.count, bands.rows)
        state = np.zeros(table.shape[:2], dtype=np.uint64)
        for row in range(bands.rows):
            state = mixed(state, table[:, :, row])
        tables.append(state)
    return Signatures(digests, np.concatenate(tables))


def jaccard(one: str, other: str) -> float:
    """Return the share of shingles (three words each) that two texts have in common, 0.0 to 1.0."""
    sets = [found for shingles in shingles_in_chunks([one, other]) for found in shingles.sets()]
    return _similarity(*sets)


def _similarity(one: Hashes, other: Hashes) -> float:
    """Return the Jaccard similarity of two sorted sets."""
    both = np.concatenate([one, other])
    both.sort()
    common = int(np.count_nonzero(both[1:] == both[:-1]))
    return common / (len(both) - common) if common else 0.0


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
    compared: set[tuple[int, int]] = set()
    chosen = list(groups)
    sets = _sets_of(chosen, text_of)
    for group in chosen:
        leaders: list[int] = []
        for index in sorted(map(int, group), key=ranks.__getitem__):
            is_new = True
            for leader in leaders:
                if (leader, index) not in compared:
                    compared.add((leader, index))
                    is_like = _similarity(sets[leader], sets[index]) >= threshold
                    if is_like and (may_drop is None or may_drop(index, leader)):
                        similar[index].add(leader)
                is_new = is_new and leader not in similar.get(index, ())
            # In a large bucket of copies a text that is like an earlier one needs no comparison of its own.
            if is_new or len(leaders) < _COMPARE_ALL:
                leaders.append(index)
    return _survivors(similar, ranks)


def _sets_of(groups: Sequence[npt.NDArray[np.int64]], text_of: Callable[[int], str]) -> dict[int, Hashes]:
    """Return the shingles of each text in a group, by its index."""
    if not groups:
        return {}
    wanted = np.unique(np.concatenate(groups)).tolist()
    found = shingles_in_chunks(map(text_of, wanted))
    return dict(zip(wanted, itertools.chain.from_iterable(shingles.sets() for shingles in found), strict=True))


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
