"""Answers are checked by a judge and by an entailment model where the configuration names one."""

import json

import pytest
from chat_server import chat_server

from llamafarm_ray.config import QualityControl
from llamafarm_ray.data.quality.filters import example_filters
from llamafarm_ray.data.quality.judge import plan_judge
from llamafarm_ray.data.rows import Example, Message, Provenance
from llamafarm_ray.data.steps import Ledger
from llamafarm_ray.errors import InputError
from llamafarm_ray.text.refusals import NOT_SAID
from llamafarm_ray.types import Digest

PASSAGE = "The mill opens at nine. A tour costs 4 euros."
CALL = Provenance("endpoint", kind="tool_calls")


def row(position, answer, *, passage=PASSAGE, provenance=None):
    turns = [{"role": "user", "content": "When does it open?"}, {"role": "assistant", "content": answer}]
    said = provenance.to_json() if provenance else None
    return {"document": "mill.md", "position": position, "messages": turns, "passage": passage, "provenance": said}


def verdict(body):
    """Supported if the last line of the conversation says nine."""
    supported = "nine" in body["messages"][1]["content"].rpartition("assistant: ")[2]
    return json.dumps({"verdicts": [{"reason": "as the passage says", "supported": supported}]})


def judged(server, cache, rows, **environment):
    quality = QualityControl.model_validate({"judge": {"model": "judge", "base_url": server.url}})
    step = plan_judge(quality, cache=str(cache), environment=environment)
    ledger = Ledger()
    return [kept["position"] for kept in step.run(rows, ledger)], ledger.counts("check_judge"), step


def test_what_the_judge_finds_unsupported_is_dropped_with_a_sample(tmp_path):
    rows = [row(0, "At nine."), row(1, "At ten."), row(2, "It opens at nine.")]
    with chat_server(answer=verdict) as server:
        kept, counts, step = judged(server, tmp_path, rows)
        assert kept == [0, 2]
        assert dict(counts.dropped) == {"the judge finds no support in the passage": 1}
        assert counts.samples["the judge finds no support in the passage"] == ["When does it open? At ten."]
        assert PASSAGE in server.asked[0]["messages"][1]["content"]
        assert [kept["position"] for kept in step.run(rows, Ledger())] == [0, 2]
        judged(server, tmp_path, rows)
        assert len(server.asked) == 3  # neither another stream nor another build asks again


def test_refusals_calls_and_rows_without_a_passage_are_not_judged(tmp_path):
    rows = [row(0, NOT_SAID["en"]), row(1, "At ten.", passage=""), row(2, "At ten.", provenance=CALL)]
    with chat_server(answer=verdict) as server:
        kept, _, _ = judged(server, tmp_path, rows)
        assert (kept, server.asked) == ([0, 1, 2], [])


def test_a_row_without_a_verdict_stays_with_a_note(tmp_path):
    def odd(body):
        return verdict(body) if "nine." in body["messages"][1]["content"][-9:] else '{"verdicts": []}'

    with chat_server(answer=odd) as server:
        kept, counts, _ = judged(server, tmp_path, [row(0, "At nine."), row(1, "At ten.")])
    assert kept == [0, 1]
    assert dict(counts.noted) == {"the judge gave no verdict": 1}


def test_a_last_batch_that_the_judge_refuses_stays_with_notes(tmp_path):
    rows = [row(number, f"At nine, or {number} later.") for number in range(65)]

    def refusal(_attempt, body):
        return "400" if "or 64 later" in body["messages"][1]["content"] else ""

    with chat_server(answer=verdict, fault=refusal) as server:
        kept, counts, _ = judged(server, tmp_path, rows)
    assert kept == list(range(65))
    assert dict(counts.noted) == {"the judge gave no verdict": 1}


def test_a_judge_without_a_server_is_refused_before_any_work():
    quality = QualityControl.model_validate({"judge": {"model": "gpt-4o"}})
    with pytest.raises(InputError, match=r"quality_control\.judge\.model.*gpt-4o"):
        plan_judge(quality, cache="x", environment={})
    assert plan_judge(QualityControl(), cache="x", environment={"OPENAI_API_KEY": "secret"}) is None


def says_nine(passage, statement):
    assert passage == PASSAGE
    return 0.9 if "nine" in statement else 0.1


def says_too_much(_passage, _statement):
    return 7


def checked(answers, name, **quality):
    quality = QualityControl.model_validate({"entailment_model": f"{__name__}:{name}", **quality})
    (step,) = example_filters(quality)
    examples = [
        Example((Message("user", "When?"), Message("assistant", answer)), "mill.md", Digest.of(b""), passage)
        for answer, passage in answers
    ]
    ledger = Ledger()
    return [example.answer for example in step.run(examples, ledger)], ledger.counts(step.name)


def test_an_answer_that_the_passage_does_not_entail_is_dropped():
    kept, counts = checked([("Nine: at nine.", PASSAGE), ("At ten.", PASSAGE), (NOT_SAID["en"], PASSAGE)], "says_nine")
    assert kept == ["Nine: at nine.", NOT_SAID["en"]]
    assert dict(counts.dropped) == {"the passage does not entail the answer": 1}
    kept, _ = checked([("At ten.", PASSAGE)], "says_nine", min_entailment=0.05)
    assert kept == ["At ten."]
    kept, counts = checked([("At ten.", "")], "says_nine")
    assert (kept, sum(counts.noted.values())) == (["At ten."], 1)


def test_a_function_that_returns_no_score_or_is_missing_is_named():
    with pytest.raises(InputError, match="returned 7"):
        checked([("At ten.", PASSAGE)], "says_too_much")
    with pytest.raises(InputError, match=r"entailment_model.*nowhere"):
        checked([("At ten.", PASSAGE)], "nowhere")
