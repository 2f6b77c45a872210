"""Evaluation as a Ray task: what comes back, progress and errors included."""

import pytest
from adapters import make_adapter
from tiny_model import make_rows, make_tiny_model

from llamafarm_ray.errors import InputError

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_an_adapter_is_measured_beside_its_base(tmp_path):
    from llamafarm_ray.evaluation import EvaluationResult, evaluate

    base = make_tiny_model(tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "adapter", seed=1)
    seen = []
    result = evaluate(
        base_model=base,
        adapter=adapter,
        rows=make_rows(5),
        metrics=["perplexity", "bleu", "rouge"],
        max_new_tokens=4,
        model_id="bot:1.0.0",
        on_progress=lambda _, done: seen.append(done),
    )
    scores = result.benchmarks["held_out"]
    assert set(scores.metrics) == set(scores.baseline) == {"perplexity", "bleu", "rouge_l"}
    assert scores.metrics["perplexity"] != scores.baseline["perplexity"]
    assert scores.improvement.endswith("%")
    assert seen[-1] == 1
    assert EvaluationResult.from_dict(result.to_dict()) == result


def test_an_error_on_the_worker_comes_back_as_itself(tmp_path):
    from llamafarm_ray.evaluation import evaluate

    with pytest.raises(InputError, match="is not a folder"):
        evaluate(
            base_model=tmp_path / "nowhere",
            adapter=None,
            rows=make_rows(1),
            metrics=["perplexity"],
            max_new_tokens=4,
            model_id="bot",
        )
    with pytest.raises(InputError, match="no examples"):
        evaluate(base_model=tmp_path, adapter=None, rows=[], metrics=["bleu"], max_new_tokens=4, model_id="bot")
