"""Questions of lm-eval's wheel, which are MMLU's own examples, as a benchmark's local files."""

import json
import re
from pathlib import Path
from typing import Any

_QUESTION = re.compile(r"(.*?)\n?\s*\(A\)(.*?)\(B\)(.*?)\(C\)(.*?)\(D\)(.*?)\nA: (.*)", re.DOTALL)


def questions() -> dict[str, list[dict[str, Any]]]:
    """The questions by subject: (question, choices, answer)."""
    import lm_eval

    path = Path(lm_eval.__file__).parent / "tasks" / "mmlu" / "flan_cot_fewshot" / "_cot_prompts.json"
    found: dict[str, list[dict[str, Any]]] = {}
    for subject, text in json.loads(path.read_text(encoding="utf-8")).items():
        for block in re.split(r"(?:^|\n)Q: ", text)[1:]:
            match = _QUESTION.fullmatch(block)
            letters = re.findall(r"\(([A-D])\)", match[6]) if match else []
            if letters:
                row = {"question": match[1].strip(), "choices": [match[place].strip() for place in range(2, 6)]}
                found.setdefault(subject, []).append({**row, "answer": "ABCD".index(letters[-1])})
    return found


def write_questions(folder: Path) -> Path:
    """Write them as lm-eval's mmlu takes them; return the folder."""
    for subject, rows in questions().items():
        (folder / subject).mkdir(parents=True)
        for split in ("test", "dev"):
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / subject / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return folder
