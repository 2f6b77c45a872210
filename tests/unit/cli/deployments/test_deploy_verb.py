"""`llamafarm models deploy` on this machine: it serves until Ctrl-C, or until `undeploy` elsewhere."""

import os
import signal
import threading

import pytest
from ray.exceptions import RayError

from llamafarm_ray.cli.deployments import deploy
from llamafarm_ray.serving.ray_serve import state
from llamafarm_ray.workflows.deployments.deploy import Deployment


@pytest.fixture
def signals():
    """What the test's process does on signals is put back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
def test_it_ends_once_the_application_is_gone_and_not_because_serve_is_being_started_again(monkeypatch, capsys):
    answers = iter([True, RayError("Serve's controller died."), True, False])

    def is_deployed(application):
        assert application == "llamafarm"
        answer = next(answers)
        if isinstance(answer, RayError):
            raise answer
        return answer

    monkeypatch.setattr(state, "is_deployed", is_deployed)
    monkeypatch.setattr(deploy, "_LOOK_S", 0.0)
    monkeypatch.setattr(deploy, "_SETTLED_S", 0.0)
    deploy._wait_until_stopped()
    assert list(answers) == []
    assert "stopped from elsewhere" in capsys.readouterr().err


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it_though_serve_hangs(monkeypatch, capsys, number):
    answer = threading.Event()

    def is_deployed(_):
        os.kill(os.getpid(), number)
        return not answer.wait()

    monkeypatch.setattr(state, "is_deployed", is_deployed)
    monkeypatch.setattr(deploy, "_LOOK_S", 0.0)
    deploy._wait_until_stopped()
    answer.set()
    [looking_out] = (thread for thread in threading.enumerate() if thread.name == "llamafarm-deployed")
    looking_out.join(5)
    assert "stopped from elsewhere" not in capsys.readouterr().err


@pytest.mark.parametrize(("num_models", "num_shown"), [(3, 3), (83, 12)])
def test_the_address_is_the_last_that_is_said_however_many_models_there_are(capsys, num_models, num_shown):
    models = tuple(f"bot-{number:02d}" for number in range(num_models))
    deploy._show(Deployment("http://127.0.0.1:8000/v1", "tiny", models, 4.2, ()), as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "Serving at http://127.0.0.1:8000/v1 (ready in 4 s)"
    assert sum("bot-" in line for line in lines) == num_shown
    assert (f"and {num_models - num_shown} more; GET http://127.0.0.1:8000/v1/models" in lines[-2]) == (num_models > 12)


def test_the_host_is_a_flag(llamafarm):
    config = llamafarm.json("models", "deploy", "--host", "0.0.0.0", "--dry-run")  # noqa: S104
    assert config["deployment"]["host"] == "0.0.0.0"  # noqa: S104
