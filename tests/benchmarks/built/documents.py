"""Documents of random words, as files of text and as lines of JSON."""

import json
import random
from pathlib import Path

WORDS_A_DOCUMENT = 100


def write_documents(folder: Path, count: int) -> None:
    """Write documents of 100 words, a thousand a folder."""
    source = random.Random(7)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(source.choices(letters, k=source.randint(2, 10))) for _ in range(30_000)]
    for number in range(count):
        path = folder / f"{number // 1000:04}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(" ".join(source.choices(words, k=WORDS_A_DOCUMENT)).capitalize() + ".\n")


def write_lines(source: Path, folder: Path) -> None:
    """Write documents as two files of JSONL."""
    folder.mkdir()
    documents = sorted(source.rglob("*.txt"))
    for number, paths in enumerate((documents[::2], documents[1::2])):
        rows = ({"id": path.stem, "text": path.read_text()} for path in paths)
        (folder / f"{number}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
