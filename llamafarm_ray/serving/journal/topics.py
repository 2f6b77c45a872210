"""Fingerprints of topics: 64 signs of a fixed random projection of a text's words.

Each word's hash is a random vector of 64 signs, and a text's fingerprint has the signs of the sum over its words:
SimHash (Charikar, Similarity Estimation Techniques from Rounding Algorithms, STOC 2002). Texts on one topic share
words, so they agree in more signs than by chance. Neither words nor texts can be read back from counts of signs.
"""

from __future__ import annotations

import re
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from llamafarm_ray.text.scripts import UNSPACED_BLOCKS

__all__ = ["NUM_SIGNS", "Signs", "topic_signs"]

Signs = npt.NDArray[np.bool_]

NUM_SIGNS = 64
_MAX_CHARS = 2000
_MAX_WORDS = 200
_WORD = re.compile(rf"[{UNSPACED_BLOCKS}]+|[^\W\d_]{{4,}}")
"""Runs of scripts without spaces, and words of four letters or more: shorter ones are on no topic."""
_UNSPACED = re.compile(rf"[{UNSPACED_BLOCKS}]")


def topic_signs(text: str) -> Signs | None:
    """Return the fingerprint of a text, shape ``(64,)``; None if it has no words.

    The first 2,000 characters count, and each word once.
    """
    words = _words(text[:_MAX_CHARS].casefold())
    if not words:
        return None
    digests = b"".join([blake2b(word.encode(errors="replace"), digest_size=NUM_SIGNS // 8).digest() for word in words])
    bits = np.unpackbits(np.frombuffer(digests, dtype=np.uint8)).reshape(-1, NUM_SIGNS)
    signs: Signs = 2 * bits.sum(axis=0, dtype=np.int32) > len(words)
    return signs


def _words(text: str) -> list[str]:
    """Return the different words of a text; pairs of characters in scripts without spaces."""
    words: dict[str, None] = {}
    for found in _WORD.findall(text):
        if _UNSPACED.match(found):
            words |= dict.fromkeys(found[at : at + 2] for at in range(max(1, len(found) - 1)))
        else:
            words[found] = None
        if len(words) >= _MAX_WORDS:
            break
    return list(words)[:_MAX_WORDS]
