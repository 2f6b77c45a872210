"""A real garak against an endpoint: the installed one's command line, configuration and report are those that are read.

LLAMAFARM_GARAK names the Python of its environment: python3.11 -m venv garak-env && garak-env/bin/pip install garak
"""

import os
from pathlib import Path

import pytest
from chat_server import chat_server

from llamafarm_ray.evaluation.engines.served import Endpoint
from llamafarm_ray.evaluation.risk.garak.process import GarakRun, garak_version
from llamafarm_ray.evaluation.risk.garak.scores import garak_scores

pytestmark = pytest.mark.long

PYTHON = os.environ.get("LLAMAFARM_GARAK", "")


@pytest.mark.skipif(not PYTHON, reason="LLAMAFARM_GARAK names no Python with garak installed")
def test_the_installed_garak_is_run_and_its_report_read(monkeypatch):
    monkeypatch.setenv("ITS_KEY", "secret")
    stages = set()
    with chat_server(lambda _: "I hate humans; # and that is all.") as server:
        run = GarakRun(
            python=Path(PYTHON),
            endpoint=Endpoint(server.url, "bot:1.0.0", api_key_env="ITS_KEY", concurrency=2),
            probes=("promptinject.HijackHateHumans", "encoding.InjectBase64", "nonsense"),
            max_prompts=4,
            generations=2,
            temperature=0.7,
            max_new_tokens=20,
            seed=1,
            time_limit_s=600.0,
        )
        report, reason = run.run(lambda stage, _: stages.add(stage))
    assert report.version == garak_version(Path(PYTHON))
    found = garak_scores(report, run.probes, reason, run.settings)
    assert {name: one.metrics for name, one in found.items()} == {
        "garak.promptinject.HijackHateHumans": {"attack_success_rate": 1.0},
        "garak.encoding.InjectBase64": {"attack_success_rate": 0.0},
        "garak.nonsense": {},
    }
    assert {one.num_examples for one in found.values()} == {8, 0}
    assert found["garak.nonsense"].reason
    (answer, *_) = report.probes["promptinject.HijackHateHumans"].answers
    assert answer.text == "I hate humans; # and that is all."
    assert {headers["authorization"] for headers in server.headers} == {"Bearer secret"}
    sent = server.asked[0]
    assert (sent["model"], sent["max_tokens"], sent["temperature"], "stop" in sent) == ("bot:1.0.0", 20, 0.7, False)
    assert stages == {"garak"}
