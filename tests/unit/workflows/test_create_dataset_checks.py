"""What a build would refuse is refused before Ray is started."""

import pytest

from llamafarm_ray.config import parse_config
from llamafarm_ray.errors import InputError
from llamafarm_ray.workflows.create_dataset import check_source


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
    logs = {"type": "conversation_logs"}
    check_source(config(tmp_path, source=logs, preprocessing=generation))
    with pytest.raises(InputError, match="does not exist"):
        check_source(config(tmp_path, source={**logs, "path": str(tmp_path / "none")}))
