"""Plain text in any encoding and language: decoding, languages, sentences, words and digests."""

from llamafarm_ray.data.text.digests import normal_form, text_digest
from llamafarm_ray.data.text.encodings import Decoded, decode_any, decode_text, text_encoding
from llamafarm_ray.data.text.lines import unwrapped
from llamafarm_ray.data.text.sentences import sentence_separator, sentences_of
from llamafarm_ray.data.text.words import cut_words, normal_words, num_words
from llamafarm_ray.text.languages import language_name, language_of

__all__ = [
    "Decoded",
    "cut_words",
    "decode_any",
    "decode_text",
    "language_name",
    "language_of",
    "normal_form",
    "normal_words",
    "num_words",
    "sentence_separator",
    "sentences_of",
    "text_digest",
    "text_encoding",
    "unwrapped",
]
