"""A verb says what it does before it imports what takes seconds: its first line does not wait for Ray or torch."""

import subprocess
import sys

import pytest

HEAVY = (
    "ray",
    "torch",
    "transformers",
    "vllm",
    "datasets",
    "deepspeed",
    "peft",
    "pandas",
    "pyarrow",
    "optuna",
    "sklearn",
)
PROGRAM = f"""
import os, sys

class Stop:
    def find_spec(self, name, path=None, target=None):
        if name in {HEAVY!r}:
            sys.stderr.write(f"IMPORTS {{name}}\\n")
            sys.stderr.flush()
            os._exit(3)
        return None

sys.meta_path.insert(0, Stop())
from llamafarm_ray.cli.main import run
sys.exit(run(sys.argv[1:]))
"""
JOB = ["--address", "http://127.0.0.1:9"]


@pytest.mark.parametrize(
    "words",
    [
        ["create-dataset", "--source", "documents"],
        ["train", "--base-model", "base", "--dataset", "rows.jsonl"],
        ["tune", "--base-model", "base", "--dataset", "rows.jsonl"],
        ["evaluate", "--model", "base", "--dataset", "rows.jsonl"],
        ["deploy", "--model", "base"],
        ["create-dataset", "--source", "documents", *JOB],
        ["train", "--base-model", "base", "--dataset", "rows.jsonl", *JOB],
        ["deploy", "--model", "base", *JOB],
    ],
    ids=lambda words: "-".join([words[0], *(["job"] if JOB[0] in words else [])]),
)
def test_the_first_line_comes_before_what_is_slow_to_import(words, tmp_path):
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "a.md").write_text("# Returns\n\nWithin 30 days.\n")
    (tmp_path / "rows.jsonl").write_text('{"messages": [{"role": "user", "content": "a"}]}\n')
    (tmp_path / "base").mkdir()
    command = [sys.executable, "-c", PROGRAM, "models", *words]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LLAMAFARM_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert lines[0].endswith(" ..."), done.stderr
    assert any(line.startswith("IMPORTS ") for line in lines) or done.returncode == 2, "nothing slow was imported"
