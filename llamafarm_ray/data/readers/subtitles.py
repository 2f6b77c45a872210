"""Subtitles, SubRip and WebVTT: the words that are spoken."""

from __future__ import annotations

import re

from llamafarm_ray.data.readers.base import BrokenDocumentError, Outline, Reader
from llamafarm_ray.data.readers.text import require_text
from llamafarm_ray.data.text import unwrapped

__all__ = ["SubtitleReader"]

_TIME = r"(?:(\d{1,3}):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
_CUE = re.compile(rf"^\s*{_TIME}\s*-->\s*{_TIME}.*$")
_VOICE = re.compile(r"<v(?:\.[^ >]*)?\s+([^>]+)>")
_TAG = re.compile(r"</?[^>]{1,80}>|\{\\[^}]*\}")
_PAUSE_S = 5.0


class SubtitleReader(Reader):
    """``.srt`` and ``.vtt`` files; a pause of five seconds, or another speaker, begins a paragraph."""

    name = "subtitles"

    def parse(self, data: bytes, outline: Outline) -> str:
        """See :meth:`Reader.parse`."""
        cues = list(_cues(require_text(data, outline).replace("\r\n", "\n").replace("\r", "\n")))
        if not cues:
            raise BrokenDocumentError("it has no time line as '00:00:01,000 --> 00:00:02,500'.")
        paragraph: list[str] = []
        last_end, speaker, last = 0.0, "", ""
        for start, end, text in cues:
            voice = _VOICE.search(text)
            name = voice[1].strip() if voice else speaker
            lines = [line.strip() for line in _TAG.sub("", text).split("\n") if line.strip()]
            spoken = [line for line in lines if line != last]  # captions that roll repeat their last line
            if paragraph and (start - last_end > _PAUSE_S or name != speaker):
                outline.block(unwrapped("\n".join(paragraph)))
                paragraph = []
            if name and name != speaker:
                paragraph.append(f"{name}:")
            paragraph += spoken
            last = lines[-1] if lines else last
            last_end, speaker = end, name
        outline.block(unwrapped("\n".join(paragraph)))
        return ""


def _cues(text: str) -> list[tuple[float, float, str]]:
    cues: list[tuple[float, float, str]] = []
    for block in re.split(r"\n[ \t]*\n", text):
        lines = block.split("\n")
        for index, line in enumerate(lines):
            times = _CUE.match(line)
            if times:
                start, end = _seconds(times.groups()[:4]), _seconds(times.groups()[4:])
                cues.append((start, end, "\n".join(lines[index + 1 :])))
                break
    return cues


def _seconds(parts: tuple[str | None, ...]) -> float:
    hours, minutes, seconds, fraction = (int(part or 0) for part in parts)
    return hours * 3600.0 + minutes * 60 + seconds + fraction / 1000
