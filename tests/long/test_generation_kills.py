"""A build whose process is killed while a model writes its pairs goes on, and ends as one that was left alone."""

import json
import os
import signal
import subprocess
import threading

import pytest
from chat_server import chat_server
from e2e_tools import BIN, environment

FAULTS = ("429", "500", "cut", "garbage", "not json", "", "")
CONCURRENCY = 2


def command(source, output, url):
    settings = {
        "model": "gpt",
        "questions_per_doc": None,
        "endpoint": {"base_url": url, "concurrency": CONCURRENCY, "timeout_s": 20},
    }
    key = "dataset.preprocessing.qa_generation"
    return [
        str(BIN / "llamafarm"),
        *("models", "create-dataset", "--source", str(source), "--output", str(output), "--json"),
        *("--set", f"{key}={json.dumps(settings)}"),
    ]


def files_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "report.json"  # it tells the time
    }


@pytest.mark.long
@pytest.mark.timeout(600)
def test_killed_at_half_of_its_answers_a_build_ends_the_same_and_asks_at_most_a_batch_twice(tmp_path):
    source = tmp_path / "docs"
    source.mkdir()
    for number in range(40):
        text = f"The house {number} opens at {number % 12}:30. A day in house {number} costs {number + 5} euros."
        (source / f"house-{number:02}.md").write_text(f"# House {number}\n\n{text}\n")
    half = threading.Event()

    def fault(attempt, body):
        if sum(server.answered.values()) >= 20:
            half.set()
        number = sum(map(ord, body["messages"][1]["content"]))
        return FAULTS[number % len(FAULTS)] if attempt == 0 and len(body["messages"]) == 2 else ""

    def home(name):
        return environment(LLAMAFARM_HOME=str(tmp_path / name))

    with chat_server(fault=fault) as server:
        build = command(source, tmp_path / "out", server.url)
        process = subprocess.Popen(build, env=home("home"), stdout=subprocess.DEVNULL, start_new_session=True)
        assert half.wait(240)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "out").exists()
        subprocess.run(build, env=home("home"), check=True, timeout=240, stdout=subprocess.DEVNULL)
        twice = sum(count - 1 for count in server.answered.values())
        whole = command(source, tmp_path / "whole", server.url)
        subprocess.run(whole, env=home("other"), check=True, timeout=240, stdout=subprocess.DEVNULL)
    assert twice <= CONCURRENCY
    assert files_of(tmp_path / "out").keys() == files_of(tmp_path / "whole").keys()
    for name, data in files_of(tmp_path / "out").items():
        if name != "dataset.json":
            assert data == files_of(tmp_path / "whole")[name]
    assert not (tmp_path / ".out.unfinished").exists()
