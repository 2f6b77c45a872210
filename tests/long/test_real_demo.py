"""`make demo` tells its whole story with a real language model: fetched, trained, examined, served and swapped."""

import json
import subprocess
import tempfile

import pytest
from e2e_tools import ROOT, environment

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def real_demo(tmp_path_factory, wheel):
    runs = tmp_path_factory.mktemp("runs")
    with tempfile.TemporaryDirectory(
        prefix="e-", ignore_cleanup_errors=True
    ) as temporary:  # short: Ray puts sockets there
        result = subprocess.run(
            ["make", "demo", f"ARGS=--real --runs {runs}"],
            cwd=ROOT,
            env=environment(TMPDIR=temporary, PIP_FIND_LINKS=str(wheel.parent)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    assert result.returncode == 0, result.stdout[-6000:]
    [folder] = runs.glob("demo-*")
    found = {}
    for step in json.loads((folder / "demo-summary.json").read_text(encoding="utf-8"))["steps"]:
        found = step | found
    return runs, result.stdout, found


def test_the_base_is_the_real_model_in_bf16(real_demo):
    config = json.loads((real_demo[0] / "base" / "config.json").read_text(encoding="utf-8"))
    assert (config["vocab_size"], config["num_hidden_layers"], config["dtype"]) == (49152, 30, "bfloat16")


def test_ten_questions_are_answered_in_four_ways(real_demo):
    _, output, found = real_demo
    assert len(found["exam"]) == 10
    assert set(found["right"]) == {"base", "base with retrieval", "adapter", "adapter with retrieval"}
    assert "Ten questions that nobody trained on" in output
    assert f"{' '.join(map(str, found['right'].values()))} right of 10" in " ".join(output.split())


def test_the_adapter_learned_from_the_dataset(real_demo):
    found = real_demo[2]
    assert found["perplexity"]["adapter"] < found["perplexity"]["base"]
    assert sum(found["losses"][-5:]) < sum(found["losses"][:5])


def test_the_swap_loses_no_request_and_the_canary_is_sent_back(real_demo):
    found = real_demo[2]
    assert set(found["versions"]) == {"harbour-guide:1.0.0", "harbour-guide:1.1.0"}
    assert sum(found["versions"].values()) >= 24
    assert found["canary"]["status"] == "rolled_back"


def test_the_terminal_shows_no_log_lines(real_demo):
    for noise in ("INFO", "WARNING", "Traceback", "levelname"):
        assert noise not in real_demo[1]
