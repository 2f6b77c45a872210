"""Images of conversations, as references: paths or addresses, each with a mark at its place in the text.

::

    OpenAI         {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}, ...]}
    TRL            {"messages": [{"role": "user", "content": [{"type": "image"}, ...]}, ...], "images": ["a.png"]}
    ShareGPT,      {"conversations": [{"from": "human", "value": "<image>What is it?"}, ...], "images": ["a.png"]}
    LLaMA-Factory  the same, or "instruction" with "images"
    LLaVA          {"conversations": [...], "image": "a.png"}
    our rows       {"messages": [{"role": "user", "content": "<image>What is it?", "images": ["a.png"]}, ...]}

The files are not opened. Training takes text only and refuses such rows, see `refuse_images`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from llamafarm_ray.data.formats.values import RecordError, is_empty, kind_name, parsed_list
from llamafarm_ray.data.rows import Message
from llamafarm_ray.errors import InputError

__all__ = ["IMAGE_PARTS", "MARK", "image_of_part", "images_of_turn", "parts_of", "place_images", "refuse_images"]

MARK = "<image>"
"""Stands in a text for an image."""

IMAGE_PARTS = frozenset({"image", "image_url", "input_image"})
"""Types of the parts of a turn that are images."""

_PART_KEYS = ("image_url", "image", "url", "path")


def image_of_part(part: Mapping[str, object], where: str) -> str:
    """Return the reference of a part of a turn; "" if the part refers to the record's ``images``.

    Raises:
        RecordError: the image itself is in the record, or its reference is no text.
    """
    key = next((key for key in _PART_KEYS if not is_empty(part.get(key))), "")
    if not key and part.get("type") == "image_url":  # OpenAI's, which has its address
        return _reference(part.get("image_url"), f"{where}.image_url")
    return _reference(part[key], f"{where}.{key}") if key else ""


def images_of_turn(turn: Mapping[str, object], where: str) -> list[str]:
    """Return the references under ``images`` or ``image`` of a record or a turn.

    Raises:
        RecordError: they are no references.
    """
    found: list[str] = []
    for key in ("images", "image"):
        value = parsed_list(turn.get(key))
        if is_empty(value):
            continue
        values = value if isinstance(value, list) else [value]
        found += [_reference(one, f"{where}{key}[{index}]") for index, one in enumerate(values)]
    return found


def _reference(value: object, where: str) -> str:
    if isinstance(value, Mapping):  # OpenAI's, or of an image's column of `datasets`
        if not is_empty(value.get("bytes")):
            raise RecordError(f"has the bytes of an image as {where}; write it to a file, and give the file's path.")
        value = value.get("url") or value.get("path")
    if not isinstance(value, str) or not value.strip():
        raise RecordError(f"has {kind_name(value)} as {where}, not the path or address of an image.")
    if value.startswith("data:"):
        raise RecordError(f"has an image itself as {where}; write it to a file, and give the file's path.")
    return value


def place_images(messages: Iterable[Message], record: Mapping[str, object]) -> list[Message]:
    """Return turns with the images of their record, each at its mark; an image "" of a turn is one of them.

    Raises:
        RecordError: the record has another number of images than its turns have marks without one.
    """
    turns = list(messages)
    given = images_of_turn(record, "")
    left, num_marks = iter(given), 0
    for index, turn in enumerate(turns):
        # A mark in a text is one if there are images; else it is said, as any other word.
        images = turn.images or ("",) * (turn.content.count(MARK) if given and turn.role == "user" else 0)
        if "" in images:
            num_marks += images.count("")
            turns[index] = replace(turn, images=tuple(image or next(left, "") for image in images))
    if num_marks != len(given):
        raise RecordError(f"has {len(given)} images, and {num_marks} marks {MARK} for them in its turns.")
    return turns


def parts_of(message: Message) -> list[dict[str, object]] | None:
    """Return a turn's content as parts of texts and images; None if it has no images, or a mark inside of a line."""
    if not message.images or message.content.split("\n").count(MARK) != len(message.images):
        return None
    images = iter(message.images)
    parts: list[dict[str, object]] = []
    lines: list[str] = []
    for line in [*message.content.split("\n"), MARK]:
        if line != MARK:
            lines.append(line)
            continue
        if lines:
            parts.append({"type": "text", "text": "\n".join(lines)})
            lines = []
        if (image := next(images, None)) is not None:
            parts.append({"type": "image_url", "image_url": {"url": image}})
    return parts


def refuse_images(turns: Sequence[Mapping[str, object]], where: str) -> None:
    """Refuse a row whose turns have images.

    Raises:
        InputError: naming the first one.
    """
    for turn in turns:
        if images := turn.get("images"):
            assert isinstance(images, Sequence)  # rows were read
            raise InputError(
                f"{where} has rows with images, as {str(images[0])!r}: training and evaluation take text only.",
                hint="Take them out, or their images and marks; `llamafarm datasets validate` counts them.",
            )
