"""What looks on while a run goes: it records, alerts, stops and reports, and nothing in it can hurt the run."""

import json
import math
import pickle
import threading

import pytest
from patience import patience, wait_until
from webhook_server import WebhookServer

from llamafarm_ray.config import parse_config
from llamafarm_ray.errors import ClusterError, TrainingError, UserError
from llamafarm_ray.training.monitoring import observers as observers_module
from llamafarm_ray.training.monitoring.failed_run import record_failure
from llamafarm_ray.training.monitoring.flops import ModelFlops
from llamafarm_ray.training.monitoring.history import History
from llamafarm_ray.training.monitoring.observer_settings import ObserverSettings
from llamafarm_ray.training.monitoring.observers import Observers
from llamafarm_ray.training.monitoring.tracking import Trackers
from llamafarm_ray.training.result import Progress

TOTAL = 100


def settings(*, reasons=("Method lora, because.",), **monitoring):
    config = parse_config({"name": "bot", "monitoring": {"tensorboard": False, **monitoring}})
    return ObserverSettings.of(config, run_id="run-1", facts={"method": "lora"}, reasons=reasons)


def look(folder, *, steps_done=0, flops=None, **monitoring):
    return Observers.open(settings(**monitoring), folder=folder, total_steps=TOTAL, steps_done=steps_done, flops=flops)


def progress(step, loss=1.0, **changes):
    return Progress(step, TOTAL, 0, loss, 1e-3, 0.5, 100.0, float(step), **changes)


def lines(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_step_comes_back_with_memory_and_mfu(tmp_path):
    observers = look(tmp_path, flops=ModelFlops(per_token=1e9, peak_per_s=1e12))
    seen = observers.step(progress(1))
    assert seen.stop is None
    assert seen.progress.mfu == pytest.approx(0.1)
    assert 10 * 2**20 < seen.progress.memory_bytes < 100 * 2**30
    assert seen.progress.alerts == ()
    observers.close()
    assert look(tmp_path).step(progress(1)).progress.mfu is None


def test_a_run_leaves_its_history_and_its_page(tmp_path):
    observers = look(tmp_path, tensorboard=True)
    for step in range(1, 6):
        observers.step(progress(step, 1 / step))
    observers.validation(0.3, 5)
    observers.checkpoint(5, 0.7)
    observers.finish({"num_trainable_parameters": 12345})
    observers.close()
    assert [line["event"] for line in lines(tmp_path)] == ["run", *["step"] * 5, "validation", "checkpoint"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for text in ("bot", "run-1", "finished", "Method lora, because.", "12,345", "config_<wbr>digest"):
        assert text in page
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_a_second_attempt_goes_on_and_what_was_done_twice_counts_once(tmp_path):
    first = look(tmp_path)
    for step in range(1, 8):
        first.step(progress(step, loss=math.nan if step == 7 else 1.0))
    first.validation(0.5, 4)
    first.validation(0.6, 6)
    first.close()
    assert not (tmp_path / "report.html").exists(), "it has not ended"
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"event": "step", "step": 8, "lo')  # cut by a kill
    second = look(tmp_path, steps_done=5)
    for step in range(6, 11):
        second.step(progress(step, 0.5))
    second.finish()
    kept = History.read(tmp_path / "history.jsonl", total_steps=TOTAL)
    assert [(step.step, step.loss) for step in kept.steps] == [(n, 1.0 if n < 6 else 0.5) for n in range(1, 11)]
    assert [validation.step for validation in kept.validations] == [4]
    assert kept.alerts == []
    assert kept.attempts == [5]
    assert "Went on after an interruption, from step 5." in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_an_alert_of_an_earlier_attempt_is_not_raised_again(tmp_path):
    first = look(tmp_path, alerting={"quality_degradation": 0.1})
    assert first.validation(1.0, 10).stop is None
    first.validation(1.5, 20)
    first.close()
    second = look(tmp_path, steps_done=20, alerting={"quality_degradation": 0.1, "stop": True})
    assert second.validation(1.6, 30).stop is None
    assert second.validation(1.0, 40).stop is None
    assert "50.0%" in second.validation(1.5, 50).stop
    second.close()


def ids(folder):
    return [line["id"] for line in lines(folder) if line["event"] == "run"]


def test_attempts_share_an_id_and_a_run_begun_anew_has_another(tmp_path):
    first = look(tmp_path)
    first.step(progress(1))
    first.close()
    [made] = set(ids(tmp_path))
    assert made.startswith("run-1-")
    look(tmp_path, steps_done=1).finish()
    assert set(ids(tmp_path)) == {made}
    assert made in (tmp_path / "report.html").read_text(encoding="utf-8")
    look(tmp_path).close()
    assert len(ids(tmp_path)) == 1
    assert made not in ids(tmp_path)
    look(tmp_path / "lost", steps_done=1).close()
    assert ids(tmp_path / "lost") == ["run-1"]


def record(folder, error, **monitoring):
    return record_failure(settings(**monitoring), folder=folder, total_steps=TOTAL, error=error)


def test_a_number_that_is_none_is_an_alert_also_where_only_the_error_says_so(tmp_path):
    with WebhookServer() as hook:
        record(tmp_path, TrainingError("The gradient of step 3 is inf."), alerting={"webhook": hook.url})
    assert [body["alert"]["kind"] for body in hook.bodies] == ["nan"]


def test_an_unreadable_history_is_said_and_the_run_goes_on(tmp_path):
    (tmp_path / "history.jsonl").write_text('{"event": "step", "step": 3}\n', encoding="utf-8")
    observers = look(tmp_path, steps_done=5)
    assert "The history of earlier attempts can't be read" in observers.step(progress(6)).progress.alerts[0]
    observers.close()


def test_a_run_stops_early_only_where_it_is_asked_to(tmp_path):
    losses = [1.0] * 30 + [9.0] * 30
    told = look(tmp_path / "told", alerting={"loss_threshold": 0.5, "stop": ["loss_threshold"]})
    seen = [told.step(progress(step, loss)) for step, loss in enumerate(losses, 1)]
    first = next(one for one in seen if one.stop)
    assert first.progress.step == 31
    assert first.stop.startswith("Stopped early after step 31: The loss rose to ")
    assert first.progress.alerts == (first.stop.split(": ", 1)[1], *first.progress.alerts[1:])
    assert seen[-1].stop == first.stop
    told.finish()
    page = (tmp_path / "told" / "report.html").read_text(encoding="utf-8")
    assert 'class="outcome stopped"' in page
    assert "Stopped early after step 31" in page

    untold = look(tmp_path / "untold", alerting={"loss_threshold": 0.5})
    assert all(untold.step(progress(step, loss)).stop is None for step, loss in enumerate(losses, 1))
    untold.finish()
    assert 'class="outcome finished"' in (tmp_path / "untold" / "report.html").read_text(encoding="utf-8")


def test_a_validation_that_got_worse_reaches_the_webhook_and_the_next_step(tmp_path):
    with WebhookServer() as hook:
        observers = look(tmp_path, alerting={"quality_degradation": 0.05, "webhook": hook.url})
        observers.validation(1.0, 10)
        observers.validation(1.2, 20)
        assert "got worse by 20.0%" in observers.step(progress(21)).progress.alerts[0]
        observers.finish()
    assert [body["alert"]["kind"] for body in hook.bodies] == ["quality_degradation"]
    assert "SECRET" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_failed_run_says_why_once_and_the_worker_leaves_it_to_the_driver(tmp_path):
    with WebhookServer() as hook:
        alerting = {"webhook": hook.url}
        observers = look(tmp_path, alerting=alerting)
        seen = observers.step(progress(1, math.nan))
        assert "loss is nan" in seen.progress.alerts[0]
        observers.fail()
        observers.close()
        assert [body["alert"]["kind"] for body in hook.bodies] == ["nan"]
        assert not (tmp_path / "report.html").exists()
        error = TrainingError("The loss of step 1 is nan.", hint="Lower the rate.")
        assert record(tmp_path, error, alerting=alerting) == []
    assert [body["alert"]["kind"] for body in hook.bodies] == ["nan", "failure"]
    assert [body["alert"]["step"] for body in hook.bodies] == [1, 1]
    assert hook.bodies[1]["run"]["id"] == ids(tmp_path)[0]
    assert lines(tmp_path)[-1]["text"] == "The run failed: The loss of step 1 is nan. Lower the rate."
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'class="outcome failed"' in page
    assert "The loss of step 1 is nan. Lower the rate." in page
    assert lines(tmp_path)[1]["loss"] is None, "JSON has no NaN"


@pytest.mark.parametrize("error", [ClusterError("Ray is gone."), KeyError("outcome"), RuntimeError()])
def test_a_run_that_failed_before_any_worker_said_something_is_told_all_the_same(tmp_path, error):
    with WebhookServer() as hook:
        assert record(tmp_path / "output", error, alerting={"webhook": hook.url}) == []
    (body,) = hook.bodies
    assert body["alert"]["kind"] == "failure"
    assert (str(error) or type(error).__name__) in body["alert"]["text"]
    assert body["alert"]["step"] == 0
    assert 'class="outcome failed"' in (tmp_path / "output" / "report.html").read_text(encoding="utf-8")
    assert [line["event"] for line in lines(tmp_path / "output")] == ["alert"]


def test_a_failure_that_can_not_be_told_hides_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    with WebhookServer(400) as hook:
        problems = record(tmp_path / "file", TrainingError("Lost."), alerting={"webhook": hook.url})
    assert "could not be sent by webhook 127.0.0.1" in problems[0]
    assert "The report could not be written" in problems[1]


class Clock:
    """Stands until it is moved, and knows when the watchdog looked at it."""

    def __init__(self):
        self.now, self.num_looks = 0.0, 0

    def monotonic(self):
        self.num_looks += threading.current_thread().name == "llamafarm-watchdog"
        return self.now

    def move(self, seconds):
        """Let so much time pass, and the watchdog look at it."""
        self.now += seconds
        before = self.num_looks
        wait_until(lambda: self.num_looks > before + 1, 10)  # the first of them may have begun before


def test_a_run_that_stands_still_is_noticed_and_signs_of_life_count(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(observers_module, "time", clock)
    with WebhookServer() as hook:
        observers = look(tmp_path, alerting={"stall_s": 0.2, "webhook": hook.url})
        observers.step(progress(1))
        for _ in range(3):
            clock.move(0.15)
            observers.beat()
        assert hook.bodies == []
        clock.move(0.25)
        wait_until(lambda: hook.bodies, 10)
        assert [body["alert"]["kind"] for body in hook.bodies] == ["stall"]
        assert "since step 1" in observers.step(progress(2)).progress.alerts[0]
        observers.close()
    assert len(hook.bodies) == 1


class Broken:
    """A tracker that hangs, or fails, when it is given something."""

    def __init__(self, action):
        self.log = lambda _: action()
        self.close = lambda _: action()


@pytest.mark.parametrize("kind", ["hangs", "fails"])
def test_a_broken_tracker_neither_slows_nor_ends_a_run(tmp_path, monkeypatch, kind):
    called, release = threading.Event(), threading.Event()

    def act():
        called.set()
        if kind == "fails":
            raise RuntimeError("server gone")
        release.wait()

    monkeypatch.setattr(Trackers, "openers", lambda *_: {"Tracker": lambda: Broken(act)})
    made = settings()
    object.__setattr__(made, "timeout_s", 3600.0)  # a step that waited for it would take an hour
    observers = Observers.open(made, folder=tmp_path, total_steps=TOTAL)
    alerts = list(observers.step(progress(1)).progress.alerts)
    assert called.wait(patience(10))
    if kind == "hangs":
        observers._trackers[0]._busy_since -= 3601
    else:
        wait_until(lambda: alerts or observers._news, 10)
    alerts += [text for step in range(2, 31) for text in observers.step(progress(step)).progress.alerts]
    observers.finish()
    release.set()
    assert len(alerts) == 1
    assert alerts[0].startswith("Tracker failed: RuntimeError: server gone" if kind == "fails" else "Tracker has not")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "the run goes on without it" in page
    assert [line["event"] for line in lines(tmp_path)].count("step") == 30
    assert History.read(tmp_path / "history.jsonl", total_steps=TOTAL).warnings == alerts


def test_a_folder_that_can_not_be_written_does_not_end_a_run(tmp_path):
    (tmp_path / "file").write_text("")
    observers = look(tmp_path / "file")
    wait_until(lambda: observers._news, 10)
    assert observers.step(progress(1)).progress.alerts[0].startswith("The run's history failed: ")
    observers.finish()


def test_settings_travel_to_the_worker_without_showing_secrets(monkeypatch):
    monkeypatch.setenv("HOOK", "https://hooks.example/SECRET")
    made = settings(alerting={"webhook_env": "HOOK"})
    assert pickle.loads(pickle.dumps(made)) == made  # noqa: S301
    assert "SECRET" not in repr(made)
    plain = settings(alerting={"webhook": "https://hooks.example/SECRET"})
    assert "SECRET" not in json.dumps(plain.config)
    monkeypatch.delenv("HOOK")
    with pytest.raises(UserError, match="HOOK"):
        settings(alerting={"webhook_env": "HOOK"})


def test_choices_of_trackers_are_among_the_reasons(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    made = settings(wandb_project="p")
    assert made.reasons[0] == "Method lora, because."
    assert "offline" in made.reasons[1]
