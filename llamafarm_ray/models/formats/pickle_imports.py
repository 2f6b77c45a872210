"""Names that a pickle would import, found by reading its instructions; nothing of it is executed."""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO

__all__ = ["pickle_imports"]

_MAX_BYTES = 1 << 26
_MAX_MEMBERS = 10_000
_MAX_INSTRUCTIONS = 2_000_000
_ZIP = b"PK\x03\x04"
_PICKLED = (".pkl", ".pickle")
_UNKNOWN = "a name that it makes up"


def pickle_imports(file: BinaryIO) -> list[str]:
    """Return the names that a pickle, or the pickles in torch's archive, would import: ``["posix.system", ...]``.

    Args:
        file: read from its front; of an archive all of it, so it has to be one that can be sought in.

    Returns:
        the names, sorted; empty for a file that is no pickle.
    """
    start = file.read(len(_ZIP))
    if start == _ZIP:
        file.seek(0)
        return sorted(set(_of_archive(file)))
    return sorted(set(_of_pickle(start + file.read(_MAX_BYTES - len(start)))))


def _of_archive(file: BinaryIO) -> Iterator[str]:
    try:
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist()[:_MAX_MEMBERS]:
                if member.filename.lower().endswith(_PICKLED):
                    with archive.open(member) as stream:
                        yield from _of_pickle(stream.read(_MAX_BYTES))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, OSError):
        yield "names in an archive that can't be listed"


def _of_pickle(data: bytes) -> Iterator[str]:
    pushed: list[object] = []
    memo: dict[int, object] = {}
    stream = io.BytesIO(data)
    try:
        while stream.tell() < len(data):  # torch's old format is several pickles, one after the other
            for number, (instruction, argument, _) in enumerate(pickletools.genops(stream)):
                if number > _MAX_INSTRUCTIONS:
                    return
                yield from _imported(instruction.name, argument, pushed, memo)
    except (ValueError, IndexError, UnicodeDecodeError, OverflowError, MemoryError):  # no pickle from here on
        return


def _imported(name: str, argument: Any, pushed: list[Any], memo: dict[int, Any]) -> Iterator[str]:
    """Follow one instruction as far as texts are concerned, and yield the name that it imports, if it does."""
    match name:
        case "GLOBAL" | "INST":
            yield str(argument).replace(" ", ".")
            pushed.append(None)
        case "STACK_GLOBAL":
            module, attribute = pushed[-2:] if len(pushed) > 1 else (None, None)
            yield f"{module}.{attribute}" if isinstance(module, str) and isinstance(attribute, str) else _UNKNOWN
            pushed.append(None)
        case "EXT1" | "EXT2" | "EXT4":
            yield f"extension {argument}"
            pushed.append(None)
        case "MEMOIZE":
            memo[len(memo)] = pushed[-1] if pushed else None
        case "PUT" | "BINPUT" | "LONG_BINPUT":
            memo[int(argument)] = pushed[-1] if pushed else None
        case "GET" | "BINGET" | "LONG_BINGET":
            pushed.append(memo.get(int(argument)))
        case "PROTO" | "FRAME" | "STOP":
            pass
        case _:
            pushed.append(argument if isinstance(argument, str) else None)
    del pushed[:-4]
