"""`make demo` keeps every promise that README makes for it."""

import psutil
import pytest

pytestmark = pytest.mark.timeout(900)  # the first test to run waits for the whole demo


def test_the_demo_ends_well(demo):
    assert demo.returncode == 0, demo.output[-6000:]


def test_the_dataset_comes_from_every_document(demo):
    results = [step["result"] for step in demo.summary["steps"] if "result" in step]
    assert sum("31 documents" in result for result in results) == 2


def test_the_loss_falls(demo):
    losses = demo.found("losses")
    assert sum(losses[-10:]) < 0.2 * sum(losses[:10])


def test_the_perplexity_on_held_out_questions_falls_fivefold(demo):
    scores = demo.found("perplexity")
    assert scores["base"] >= 5 * scores["adapter"]
    assert scores["adapter"] >= 1


def test_every_version_was_measured_before_production_could_point_at_it(demo):
    titles = [step["step"] for step in demo.summary["steps"]]
    for number, measured in ((1, "Evaluate on held-out questions"), (2, "Evaluate adapter 2, as production asks")):
        assert titles.index(measured) < titles.index(f"Register version {number}")
    assert demo.found("gate").startswith("perplexity<")


def test_the_adapter_knows_what_the_base_does_not(demo):
    answers = demo.found("answers")
    assert sum("Marta Okafor" in answer["adapter"] for answer in answers) == 1
    assert not any("Marta Okafor" in answer["base"] for answer in answers)


def test_the_swap_loses_no_request_and_changes_the_answer(demo):
    versions = demo.found("versions")
    assert set(versions) == {"harbour-guide:1.0.0", "harbour-guide:1.1.0"}
    assert sum(versions.values()) >= 24
    assert "Marta Okafor" in demo.found("swap")["before"]
    assert "Tamsin Bellweather" in demo.found("swap")["after"]


def test_the_canary_is_sent_back_by_its_readers_and_nobody_loses_an_answer(demo):
    canary = demo.found("canary")
    assert canary["status"] == "rolled_back"
    assert "feedback" in canary["reason"]
    assert set(canary["versions"]) == {"harbour-guide:1.0.0", "harbour-guide:1.1.0"}
    assert "Tamsin Bellweather" in canary["after"]


def test_nothing_is_left_running_and_nothing_is_left_behind(demo):
    def mentions(process):
        try:
            return str(demo.temporary) in " ".join(process.cmdline()) or str(demo.temporary) in str(process.environ())
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False

    assert [process for process in psutil.process_iter() if mentions(process)] == []
    assert [path.name for path in demo.temporary.iterdir() if path.name.startswith("lf-")] == []


def test_the_terminal_shows_people_what_they_need_and_no_log_lines(demo):
    assert "Dashboard: http://127.0.0.1:" in demo.output
    assert "Done in" in demo.output
    for noise in ("INFO", "WARNING", "Traceback", "levelname"):
        assert noise not in demo.output
