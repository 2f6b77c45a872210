import json
import math
from dataclasses import replace

import pytest
import torch
from adapters import greedy
from chat_templates import QWEN3
from tiny_model import make_rows, make_tiny_model

from llamafarm_ray.errors import InputError, UnsupportedError
from llamafarm_ray.evaluation import answering
from llamafarm_ray.evaluation.answering import answer_held_out
from llamafarm_ray.evaluation.measured_model import MeasuredModel
from llamafarm_ray.evaluation.metrics import METRICS
from llamafarm_ray.evaluation.report import ResultPage
from llamafarm_ray.evaluation.run import EvaluationJob, HeldOutAnswers, score_answers
from llamafarm_ray.models.chat import tokenise_turns
from llamafarm_ray.models.tokenizer import load_tokenizer

ROWS = make_rows(11)


def evaluate(base, adapter=None, rows=ROWS, metrics=("perplexity", "bleu", "rouge"), of=1, **changes):
    settings = {"max_new_tokens": 6, "model_id": "bot", "baseline": True} | changes
    seen = []
    job = EvaluationJob(model=MeasuredModel(base, adapter, "w", "b"), rows=rows, metrics=metrics, **settings)
    parts = [answer_held_out(job, lambda what, done: seen.append((what, done)), part, of) for part in range(of)]
    return score_answers(job, parts).benchmarks["held_out"], seen


def expected_perplexity(base, adapter=None, rows=ROWS):
    """One row at a time, by transformers' own loss."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), load_tokenizer(base)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    loss_sum = num_tokens = 0
    for chat in [chat for row in rows for chat in tokenise_turns(tokenizer, row["messages"])]:
        labels = [token if trained else -100 for token, trained in zip(chat.input_ids, chat.trained, strict=True)]
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([chat.input_ids]), labels=torch.tensor([labels])).loss
        loss_sum += float(loss) * sum(chat.trained)
        num_tokens += sum(chat.trained)
    return math.exp(loss_sum / num_tokens)


def test_perplexity_is_over_the_answers_tokens_however_rows_are_batched(base, adapter):
    scores, _ = evaluate(base, adapter, metrics=("perplexity",))
    assert scores.metrics["perplexity"] == pytest.approx(expected_perplexity(base, adapter), rel=1e-4)
    assert scores.baseline["perplexity"] == pytest.approx(expected_perplexity(base), rel=1e-4)
    assert (scores.num_examples, scores.num_skipped) == (11, 0)


def test_turns_that_a_template_rewrites_are_measured_as_they_are_trained(tmp_path):
    base = make_tiny_model(tmp_path / "base")
    (base / "chat_template.jinja").write_text(QWEN3, encoding="utf-8")
    turns = [("What is a llama?", "<think>\nwool\n</think>\n\nAn animal."), ("And a farm?", "It needs water.")]
    rows = [
        {
            "messages": [
                {"role": role, "content": text}
                for pair in turns
                for role, text in zip(("user", "assistant"), pair, strict=True)
            ]
        }
    ]
    assert len(tokenise_turns(load_tokenizer(base), rows[0]["messages"])) == 2
    scores, _ = evaluate(base, rows=rows, metrics=("perplexity", "rouge"))
    assert scores.metrics["perplexity"] == pytest.approx(expected_perplexity(base, rows=rows), rel=1e-4)
    assert (scores.num_examples, scores.num_skipped) == (1, 0)


def test_answers_that_are_context_only_are_not_measured(base):
    turns = [dict(turn) for turn in ROWS[0]["messages"]]
    masked = [{**turn, "train": False} if turn["role"] == "assistant" else turn for turn in turns]
    scores, _ = evaluate(base, rows=[ROWS[0], {"messages": masked}], metrics=("perplexity",))
    assert scores.metrics["perplexity"] == pytest.approx(expected_perplexity(base, rows=ROWS[:1]), rel=1e-4)
    assert (scores.num_examples, scores.num_skipped) == (1, 1)


def test_answers_are_what_the_model_alone_would_say_to_each_prompt(base, adapter):
    tokenizer = load_tokenizer(base)
    prompts = [
        tokenizer.apply_chat_template(row["messages"][:1], tokenize=False, add_generation_prompt=True) for row in ROWS
    ]
    # Rows whose references are the model's own answers score full marks only if padding changes nothing.
    own = [
        row | {"messages": [row["messages"][0], {"role": "assistant", "content": greedy(base, adapter, prompt, 6)}]}
        for row, prompt in zip(ROWS, prompts, strict=True)
    ]
    scores, _ = evaluate(base, adapter, rows=own, metrics=("rouge", "bleu"))
    assert scores.metrics["rouge_l"] == pytest.approx(1)
    assert scores.baseline["rouge_l"] < 1


def test_the_first_metric_gives_the_improvement(base, adapter):
    scores, _ = evaluate(base, adapter, metrics=("perplexity", "rouge"))
    change = scores.metrics["perplexity"] / scores.baseline["perplexity"] - 1
    assert scores.improvement == f"{change:+.1%}"


def test_a_base_model_alone_has_no_baseline(base):
    scores, _ = evaluate(base, metrics=("perplexity",))
    assert (scores.baseline, scores.improvement) == (None, None)


def test_progress_goes_from_nothing_to_all(base, adapter):
    _, seen = evaluate(base, adapter)
    done = [fraction for _, fraction in seen]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 1)
    assert any(what.startswith("baseline") for what, _ in seen)


def test_rows_that_cant_be_measured_are_counted_and_never_all(base):
    long = {"messages": [{"role": "user", "content": "word " * 300}, ROWS[0]["messages"][1]]}
    silent = {"messages": ROWS[0]["messages"][:1]}
    scores, _ = evaluate(base, rows=[*ROWS, long, silent], metrics=("perplexity",))
    assert (scores.num_examples, scores.num_skipped) == (11, 2)
    with pytest.raises(InputError, match="None of the 2 examples"):
        evaluate(base, rows=[long, silent])


def test_a_metric_without_an_engine_is_refused_with_those_there_are(base):
    with pytest.raises(UnsupportedError, match="rag_accuracy"):
        evaluate(base, metrics=("rag_accuracy",))


def test_a_folder_that_is_no_adapter_is_refused(base, tmp_path):
    with pytest.raises(InputError, match="not an adapter"):
        evaluate(base, adapter=tmp_path)


def test_scores_do_not_depend_on_the_number_of_workers(base, adapter, monkeypatch):
    monkeypatch.setattr(answering, "_EXAMPLES_A_CHUNK", 3)
    alone, _ = evaluate(base, adapter)
    assert alone.num_examples == 11
    for number in (2, 5):  # of four chunks: one worker has none
        assert evaluate(base, adapter, of=number)[0] == alone


TOOLS = "{{ tools | tojson if tools }}{% for m in messages %}{{ m.role }}: {{ m.content }}"
TOOLS += "{{ m.tool_calls | tojson if m.tool_calls }}{{ eos_token }}{% endfor %}"
TOOLS += "{% if add_generation_prompt %}assistant: {% endif %}"


def test_calls_documents_times_and_confidence_of_answers_are_measured(tmp_path):
    base = make_tiny_model(tmp_path / "base")
    (base / "chat_template.jinja").write_text(TOOLS, encoding="utf-8")
    call = [{"function": {"name": "weather", "arguments": {"town": "Graz"}}}]
    said = {"role": "assistant", "content": "", "tool_calls": json.dumps(call)}
    tools = json.dumps([{"type": "function", "function": {"name": "weather"}}])
    question = {"role": "user", "content": "Weather?"}
    rows = [
        {"messages": [question, {**said, "content": "Calling."}], "tools": tools},
        {"messages": [question, {"role": "assistant", "content": "Fine."}], "tools": tools},
        {"messages": [question, {"role": "assistant", "content": '{"town": "Graz"}'}]},
    ]
    names = ("tool_call_accuracy", "json_valid", "latency_p95", "calibration_error")
    job = EvaluationJob(MeasuredModel(base, None, "w", "b"), rows, names, 6, "bot", False)
    found = answer_held_out(job, lambda *_: None).model
    assert [one.expected_calls for one in found.values()] == [tuple(call), (), None]
    assert [one.schema for one in found.values()] == [None, None, True]
    answers = {0: json.dumps(call[0]), 1: "Fine.", 2: "{}"}
    right = HeldOutAnswers({at: replace(found[at], answer=text) for at, text in answers.items()}, None, "t")
    scores = score_answers(job, [right]).benchmarks["held_out"].metrics
    assert (scores["tool_call_accuracy"], scores["json_valid"]) == (1, 1)
    assert scores["latency_p95"] > 0
    assert 0 <= scores["calibration_error"] <= 1


def test_answers_to_held_out_examples_have_slices_and_worst_ones_for_a_report(base, adapter):
    model = MeasuredModel(base, adapter, "w", "b")
    job = EvaluationJob(model, ROWS, ("perplexity", "bleu", "rouge"), 6, "bot", True)
    answers = answer_held_out(job, lambda *_: None)
    result = score_answers(job, [answers])
    assert [one.id for one in result.answered] == [row["id"] for row in ROWS]
    first = result.answered[0]
    assert (first.benchmark, first.prompt) == ("held_out", "Question 0?")
    assert (first.answer, first.baseline_answer) == (answers.model[0].answer, answers.baseline[0].answer)
    assert first.score == METRICS["rouge_l"].of_sample(answers.model[0])
    assert {one.slices["document"] for one in result.answered} == {"part-0.md", "part-1.md", "part-2.md"}
    assert "part-1.md" in ResultPage(result).html()
    without = EvaluationJob(MeasuredModel(base, None, "w", "b"), ROWS, ("perplexity",), 6, "bot", False)
    assert score_answers(without, [answer_held_out(without, lambda *_: None)]).answered == ()
