"""A build's checks before Ray is started, and the place of its tokens."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from llamafarm_ray.config import parse_config
from llamafarm_ray.data.writing import target_for
from llamafarm_ray.errors import InputError
from llamafarm_ray.workflows.datasets.create_dataset import check_source
from llamafarm_ray.workflows.datasets.tokens import token_store


def test_a_build_by_rules_imports_no_library_of_models_or_of_search():
    code = "import json, sys, llamafarm_ray.data.build.pipeline, llamafarm_ray.workflows.datasets.create_dataset"
    asked = f"{code}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", asked], check=True, capture_output=True, text=True)
    assert not {"torch", "transformers", "bm25s", "numba"} & set(json.loads(done.stdout))


def config(tmp_path, **dataset):
    (tmp_path / "docs").mkdir(exist_ok=True)
    (tmp_path / "docs" / "a.md").write_text("# Mill\n\nThe mill opens at eight.\n")
    source = {"path": str(tmp_path / "docs"), **dataset.pop("source", {})}
    return parse_config({"dataset": {"source": source, **dataset}})


def test_tokens_need_a_folder(tmp_path):
    check_source(config(tmp_path, path=str(tmp_path / "qa"), preprocessing={"tokenize": True}))
    with pytest.raises(InputError, match=r"tokenize is true, but the output '.*qa\.jsonl' is a file") as caught:
        check_source(config(tmp_path, path=str(tmp_path / "qa.jsonl"), preprocessing={"tokenize": True}))
    assert "folder" in caught.value.hint


def test_logs_of_conversations_must_exist_and_need_no_writer_of_pairs(tmp_path):
    generation = {"qa_generation": {"model": "gpt-4o"}}
    logs = {"type": "conversation_logs", "path": str(tmp_path / "chats.jsonl")}
    (tmp_path / "chats.jsonl").write_text('{"messages": []}')
    check_source(config(tmp_path, source=logs, preprocessing=generation))
    with pytest.raises(InputError, match="does not exist"):
        check_source(config(tmp_path, source={**logs, "path": str(tmp_path / "none")}))


@pytest.mark.parametrize("row_format", ["alpaca", "prompt_completion"])
def test_dialogues_in_a_format_of_one_answer_are_refused_before_anything_is_read(tmp_path, monkeypatch, row_format):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    dialogues = {"format": row_format, "qa_generation": {"kinds": ["questions", "dialogues"], "model": "gpt"}}
    with pytest.raises(InputError, match=f"{row_format} holds one answer, and dialogues have several"):
        check_source(config(tmp_path, preprocessing=dialogues))


def built(folder, *, num_validation):
    target = target_for(folder, "chatml", overwrite=False)
    described = {"num_train": 1, "num_validation": num_validation, "documents": []}
    with target.open():
        target.finish(described | {"digest": f"sha256:{'0' * 64}"}, {})
        target.publish()
    return folder


def test_rows_that_train_holds_out_itself_decide_its_tokens_and_a_datasets_own_do_not(tmp_path):
    splits = SimpleNamespace(digest="sha256:x")

    def rows(folder, **changes):
        return token_store(folder, splits, parse_config(changes)).rows

    ratio = {"dataset": {"validation": {"split_ratio": 0.2}}}
    without = built(tmp_path / "without", num_validation=0)
    assert token_store(without, splits, parse_config({})).folder == without / "_tokens"
    assert len({rows(without), rows(without, **ratio), rows(without, **ratio, seed=9)}) == 3
    with_own = built(tmp_path / "with", num_validation=3)
    assert rows(with_own) == rows(with_own, **ratio) == rows(with_own, seed=9)
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    assert token_store(tmp_path / "rows.jsonl", splits, parse_config({})) is None


@pytest.mark.parametrize("output", ["s3://bucket/qa", "gs://bucket/qa.jsonl", "file:///data/qa"])
def test_an_output_in_a_bucket_is_refused_and_makes_no_local_folder(tmp_path, output):
    with pytest.raises(InputError, match=f"'{output}' is a URI"):
        check_source(config(tmp_path, path=output))
    with pytest.raises(InputError, match="is a URI"):
        target_for(Path(output), "chatml", overwrite=False)
