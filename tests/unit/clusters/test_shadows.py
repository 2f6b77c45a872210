"""A working directory whose files would hide a library from Ray's workers is refused with the file's name."""

import pytest

from llamafarm_ray.clusters.shadows import refuse_shadows
from llamafarm_ray.errors import InputError


@pytest.mark.parametrize("name", ["torch.py", "transformers/__init__.py", "logging.py", "json/__init__.py", "yaml.py"])
def test_a_module_with_a_librarys_name_is_refused(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    with pytest.raises(InputError, match=name.partition("/")[0]) as refused:
        refuse_shadows(tmp_path)
    assert "another name" in refused.value.hint


@pytest.mark.parametrize("name", ["train.py", "torch/notes.txt", "torch.yaml", "torch-notes.py", "data/__init__.py"])
def test_what_hides_nothing_is_let_be(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    refuse_shadows(tmp_path)


def test_a_module_that_this_process_has_from_there_hides_nothing(tmp_path, monkeypatch):
    (tmp_path / "ours_alone.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    __import__("ours_alone")
    refuse_shadows(tmp_path)


def test_a_script_of_the_folder_and_what_cannot_be_read_are_no_matter(tmp_path):
    (tmp_path / "__main__.py").write_text("")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    refuse_shadows(tmp_path)
    refuse_shadows(tmp_path / "nowhere")
