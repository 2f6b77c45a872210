"""Toxicity by a word list.

The list holds insults, threats and obscenities of English, with a few of German, French and Spanish. It does not notice
polite or implied toxicity, or other languages.
"""

from __future__ import annotations

import re

__all__ = ["toxicity"]

_INSULT = (
    r"(?:you|you're|(?:you|they) are|(?:he|she) is) (?:an? |all )?(?:complete |total |utter |bloody |worthless )?"
    r"(?:idiots?|morons?|imbeciles?|stupid|pathetic|worthless|disgusting|scum|trash|losers?)"
)
# A match adds its weight: the score is one minus the product of what each leaves.
_WEIGHTS = {
    0.9: (
        r"(?:i(?:'| wi)ll|i'?m going to|gonna) (?:kill|hurt|rape|beat|shoot|stab) (?:you|him|her|them)",
        r"kill yourself|kys|go die|you (?:should|deserve to) die|gas the \w+",
        r"n[i1]gg(?:er|a)s?|f[a@]gg?ots?|k[i1]kes?|sp[i1]cs|ch[i1]nks|tr[a@]nn(?:y|ies)",
        r"(?:all|those|these) \w+ (?:are|should be) (?:vermin|subhuman|exterminated|killed)",
    ),
    0.6: (
        r"f+u+c+k+(?:er|ers|ing|ed|s)?|motherf\w+|cunts?|assholes?|arseholes?|bitch(?:es)?|whores?|sluts?",
        r"retard(?:ed|s)|bastards?|wankers?|twats?|dickheads?|shitheads?|douchebags?",
        r"arschl(?:och|\u00f6cher)|wichser|fotze|hurensohn|connards?|salopes?|encul\u00e9s?|putas?|pendejos?|gilipollas",
    ),
    0.5: (
        _INSULT,
        r"shut up|piss off|drop dead|(?:i|we) hate (?:you|them|those \w+)",
    ),
    0.3: (r"sh[i1]t(?:s|ty|ting)?|bullshit|crap(?:py)?|piss(?:ed)?|schei\u00dfe|merde|mierda|idiots?|morons?",),
}
_PATTERNS = [
    (weight, re.compile(rf"(?i)(?<![\w@/.-])(?:{'|'.join(words)})(?![\w@]|\.\w)")) for weight, words in _WEIGHTS.items()
]


def toxicity(text: str) -> float:
    """Return the toxicity of ``text`` by the word list, 0.0 to 1.0; repetition counts twice at most.

    Source: noisy-or (Pearl, 1988, "Probabilistic Reasoning in Intelligent Systems") over the weights of the matches.
    """
    clean = 1.0
    for weight, pattern in _PATTERNS:
        matches = {match[0].lower() for match in pattern.finditer(text)}
        clean *= (1 - weight) ** min(2, len(matches))
    return 1 - clean
