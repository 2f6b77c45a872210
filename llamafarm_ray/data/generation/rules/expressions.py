"""Expressions for what statements tell: times, dates, amounts of money, spans, numbers and places."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["DATE", "DAYS", "MONEY", "NUMBER", "OFTEN", "PLACE", "PLACE_STRICT", "SPAN", "TIME", "any_of"]


def any_of(words: Iterable[str]) -> str:
    """Alternatives for an expression, longer ones first so that *opens* is not read as *open*, each a whole word."""
    ordered = sorted(set(words), key=lambda word: (-len(word), word))
    return rf"(?:{'|'.join(map(re.escape, ordered))})\b"


_DIGIT_WORD = "(?:one|two|three|four|five|six|seven|eight|nine)"
_NUMBER_WORD = (
    rf"(?:(?:twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)(?:-{_DIGIT_WORD})?"
    rf"|(?:thir|four|fif|six|seven|eigh|nine)teen|ten|eleven|twelve|{_DIGIT_WORD})\b"
)
NUMBER = (
    r"(?:(?:about|around|up to|at least|at most|more than|less than|over|roughly|exactly|only|almost|nearly) )?"
    rf"(?:\d[\d.,]*|{_NUMBER_WORD}|a hundred|a thousand|half an?)"
)
MONEY = (
    rf"(?:(?:about |from |only |up to )?[$\u20ac\u00a3]\s?\d[\d.,]*"
    rf"|{NUMBER}(?: (?:hundred|thousand|million|billion))?"
    r" (?:euros?|dollars?|pounds?|cents?|francs?|crowns?|yen|rupees?|EUR|USD|GBP|CHF)\b)"
)
SPAN = (
    rf"(?:{NUMBER}(?: (?:to|or) \S+| and a half)?"
    r" (?:working |business )?(?:seconds?|minutes?|hours?|days?|weeks?|months?|years?|nights?)\b|half an hour)"
)

_WEEKDAY = r"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)days?\b"
_MONTH = (
    r"(?:January|February|March|April|May|June|July|August|September|October|November|December"
    r"|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\b"
)
_SEASON = r"(?:spring|summer|autumn|winter)\b"
_YEAR = r"(?:1\d|20)\d\d\b"

DATE = (
    rf"(?:(?:the )?\d{{1,2}}(?:st|nd|rd|th)?(?: of)? {_MONTH}(?: {_YEAR})?"
    rf"|{_MONTH}(?: \d{{1,2}}\b(?!:))?(?:,? {_YEAR})?"
    rf"|{_YEAR})"
)
DAYS = (
    rf"(?:(?:the )?(?:(?:first|second|third|fourth|last|next) )?(?:{_WEEKDAY}|(?:working )?days? of )"
    r"|weekdays\b|(?:the )?weekends?\b|(?:public |bank |school )?holidays\b|working days\b)"
)
_CLOCK = (
    r"(?:\d{1,2}[:.]\d{2}\b(?: ?[ap]\.?m\b\.?)?|\d{1,2} ?[ap]\.?m\b\.?|\d{1,2} o'clock|noon\b|midday\b"
    r"|midnight\b|dawn\b|dusk\b|sunset\b|sunrise\b"
    r"|\d{1,2}(?= (?:to|until|and) \d| (?:on|every|in the|sharp)\b|$))"
)
_EVERY = (
    rf"(?:(?:every|each) (?:(?:other|second|few|{NUMBER}) )?"
    rf"(?:(?:minute|hour|day|week|month|quarter|year|morning|evening|night|weekday|weekend)s?\b|{_WEEKDAY}|{_SEASON}))"
)
OFTEN = (
    rf"(?:{_EVERY}|(?:once|twice|three times|four times|\d+ times) (?:a|per|every) (?:day|week|month|quarter|year)\b"
    r"|(?:daily|weekly|monthly|yearly|annually)\b)"
)
TIME = (
    rf"(?:(?:(?:daily|{_EVERY}) )?(?:at|from|by|until|till|before|after|between|around|no later than|not later than)"
    rf" (?:{_CLOCK}|{DATE}|{DAYS}|the end of the (?:day|week|month|year)\b)"
    rf"|on (?:{DAYS}|{DATE})|in (?:early |late |mid-)?(?:{DATE}|{_SEASON}|the (?:morning|afternoon|evening|{_SEASON}))"
    rf"|{OFTEN}|(?:within|after) {SPAN}|(?:{SPAN}|an? (?:minute|hour|day|week|month|year))"
    r" (?:before|after) \w+)"
)

PLACE = (
    rf"(?!{TIME})(?:in|at|on|near|next to|behind|under|opposite|inside|outside|beside|above|below"
    r"|between(?! \d)|across from|in front of|along) "
    r"(?!(?:accordance|addition|advance|case|charge|use|order|total|time|place|general|fact|person|part|writing"
    r"|stock|operation|progress|holiday|sale|request|average|public|good|bad|cash|mind|favou?r|english|plaintext|plain|clear|binary|text|pairs?|groups?)\b"
    r"|the (?:process|event|form|same|middle|way|case|order|morning|afternoon|evening|beginning|course"
    r"|hands|verge|end of the (?:day|week|month|year|season)|rise|basis|grounds|night|weekend)\b"
    r"|(?:a|the) (?:\w+ )?(?:temperature|speed|rate|price|cost|pressure|level"
    r"|position|state|condition|discount|hurry|way|manner|size|variety|range)\b|\d+(?:[.,]\d+)? ?\S*(?:$| (?:degrees)))"
)
PLACE_STRICT = rf"{PLACE}(?=(?:the|an?|our|your|each|every|room|level|floor|building|[a-z]+ \d+)\b|[A-Z\d])"
