"""A manifest lists what is the same on every system and runs no code, whoever wrote it."""

import io
import json
import os
import pickle
import socket
import struct
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafarm_ray.errors import InputError, IntegrityError
from llamafarm_ray.storage import FileEntry, Manifest
from llamafarm_ray.storage import manifest as manifest_module
from llamafarm_ray.storage import paths as paths_module
from llamafarm_ray.types import Digest

DIGEST = Digest.of(b"x")


def manifest_bytes(*paths, **fields):
    entry = {"size_bytes": 1, "digest": DIGEST, "media_type": "text/plain", **fields}
    body = {"files": [{"path": path, **entry} for path in paths], "format_version": 1}
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def safetensors(header, data=b"", *, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(begin, end, shape, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def torch_zip():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02.")
    return file.getvalue()


def test_the_canonical_form_and_digest_are_those_of_the_first_release():
    manifest = Manifest((FileEntry("ä/b.txt", 1, DIGEST, "text/plain"),))
    assert manifest.to_bytes() == (
        b'{"files":[{"digest":"sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",'
        b'"media_type":"text/plain","path":"\\u00e4/b.txt","size_bytes":1}],"format_version":1}'
    )
    assert manifest.digest == "sha256:" + Digest.of(manifest.to_bytes()).hex
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("../x", "outside"),
        ("/etc/passwd", "outside"),
        ("a/../../x", "outside"),
        ("a//b", "outside"),
        ("a/./b", "outside"),
        ("a/", "outside"),
        ("", "outside"),
        (".", "outside"),
        ("..", "outside"),
        ("a\\b", "Windows"),
        ("..\\x", "Windows"),
        ("C:/x", "Windows"),
        ("c:x", "Windows"),
        ("a\0b", "control"),
        ("a\nb", "control"),
        ("a\x7f", "control"),
        ("a\x85b", "control"),
        (".hidden", "hidden"),
        ("a/.git/config", "hidden"),
        ("\ud800", "UTF-8"),
        ("a/\udcff", "UTF-8"),
        ("x" * 256, "too long"),
        ("ä" * 128, "too long"),
        ("a/" * 2048 + "a", "too long"),
    ],
)
def test_a_manifest_with_a_hostile_path_is_refused(path, problem):
    with pytest.raises(IntegrityError, match=problem):
        Manifest.from_bytes(manifest_bytes(path))


@pytest.mark.parametrize(
    ("paths", "problem"),
    [
        (["a", "a"], "twice"),
        (["a", "A"], "one file"),
        (["a/B", "a/b"], "one file"),
        (["stra\u00dfe", "STRASSE"], "one file"),
        (["\u00e4", "a\u0308"], "one file"),
        (["\u00c4", "a\u0308"], "one file"),
        (["a", "a/b"], "folder of"),
        (["a/b/c", "A/b"], "folder of"),
    ],
)
def test_a_manifest_whose_paths_are_one_file_somewhere_is_refused(paths, problem):
    with pytest.raises(IntegrityError, match=problem):
        Manifest.from_bytes(manifest_bytes(*paths))


@pytest.mark.parametrize(
    "size", [-1, 2**63, 10**30, True, False, None, "1", 1.0, [], float("inf")], ids=lambda size: repr(size)[:8]
)
def test_a_manifest_with_an_impossible_size_is_refused(size):
    with pytest.raises(IntegrityError, match="'a'"):
        Manifest.from_bytes(manifest_bytes("a", size_bytes=size))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"{}",
        b'{"files":null,"format_version":1}',
        b'{"files":{},"format_version":1}',
        b'{"files":[1],"format_version":1}',
        b'{"files":[{}],"format_version":1}',
        b'{"files":[],"format_version":2}',
        b'{"files":[],"files":[],"format_version":1}',
        b'{"files":[],"format_version":1,"more":1}',
        b'{"files":[],"format_version":1}\n',
        b'{"files":[],"format_version":true}',
        b"[" * 100_000,
        b'{"files":' + b"9" * 5000 + b"}",
        manifest_bytes(1),
        manifest_bytes("a", digest="sha256:1"),
        manifest_bytes("a", digest=1),
        manifest_bytes("a", media_type=None),
        manifest_bytes("a", extra=1),
    ],
    ids=lambda data: repr(data[:45]),
)
def test_what_is_no_manifest_is_an_integrity_error(data):
    with pytest.raises(IntegrityError):
        Manifest.from_bytes(data)


@given(
    st.binary() | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_no_bytes_raise_anything_else(data):
    with pytest.raises(IntegrityError):
        Manifest.from_bytes(data)


def test_a_manifest_of_too_many_files_is_refused(folder, monkeypatch):
    data = Manifest.of_folder(folder).to_bytes()
    monkeypatch.setattr(manifest_module, "MAX_FILES", 2)
    with pytest.raises(IntegrityError, match="more than 2"):
        Manifest.from_bytes(data)
    with pytest.raises(InputError, match="more than 2"):
        Manifest.of_folder(folder)
    assert paths_module.MAX_FILES == 100_000


@pytest.mark.parametrize(
    "name", ["model.bin", "model.pt", "weights.pkl", "sub/x.ckpt", "evil.BIN", "model.pth.tar", "x.joblib", "a.PicKle"]
)
def test_pickled_weights_are_refused(folder, name):
    (folder / name).write_bytes(b"x")
    with pytest.raises(InputError, match="pickled"):
        Manifest.of_folder(folder)


@pytest.mark.parametrize("name", ["notes.txt", "config.json", "weights", "x.md"])
@pytest.mark.parametrize(
    "data",
    [*(pickle.dumps([1], protocol=number) for number in range(2, 6)), torch_zip(), torch_zip()[:40], b"\x93NUMPY\x01"],
    ids=["2", "3", "4", "5", "torch", "cut torch", "numpy"],
)
def test_a_pickle_by_another_name_is_refused(folder, name, data):
    (folder / name).write_bytes(data)
    with pytest.raises(InputError, match="pickled"):
        Manifest.of_folder(folder)


@pytest.mark.parametrize(
    ("network", "weights", "accepted"),
    [
        (b'<?xml version="1.0"?>\n<net name="model" version="11">', b"\0\0\x80\x3f", True),
        (b'<?xml version="1.0"?>\n<net name="model" version="11">', pickle.dumps([1], protocol=2), False),
        (b'<?xml version="1.0"?>\n<notes>', b"\0\0\x80\x3f", False),
        (None, b"\0\0\x80\x3f", False),
    ],
)
def test_numbers_beside_a_network_of_openvino_are_no_pickle(folder, network, weights, accepted):
    (folder / "openvino_model.bin").write_bytes(weights)
    if network is not None:
        (folder / "openvino_model.xml").write_bytes(network)
    if accepted:
        media_types = {entry.path: entry.media_type for entry in Manifest.of_folder(folder).files}
        assert media_types["openvino_model.xml"] == "application/xml"
    else:
        with pytest.raises(InputError, match="pickled"):
            Manifest.of_folder(folder)


def test_a_file_of_another_name_beside_a_network_of_openvino_can_be_a_pickle(folder):
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps([1], protocol=0))
    (folder / "pytorch_model.xml").write_bytes(b'<?xml version="1.0"?>\n<net name="model" version="11">')
    with pytest.raises(InputError, match="pickled"):
        Manifest.of_folder(folder)


def test_an_archive_without_pickles_and_a_header_that_looks_like_one_are_fine(folder):
    with zipfile.ZipFile(folder / "docs.zip", "w") as archive:
        archive.writestr("readme.txt", "x")
    padded = json.dumps({"__metadata__": {"x": "y"}}).encode()
    padded += b" " * (0x0280 - len(padded))
    (folder / "lora.safetensors").write_bytes(safetensors(padded))
    assert (folder / "lora.safetensors").read_bytes().startswith(b"\x80\x02")
    assert len(Manifest.of_folder(folder).files) == 5


BROKEN = {
    "empty": b"",
    "short": b"short",
    "zeros": b"\0" * 40,
    "huge header": safetensors(b"{}", length=2**60),
    "header over the limit": safetensors(b"{}", length=100_000_001),
    "header past the end": safetensors(b"{}", length=3),
    "not JSON": safetensors(b"{x}"),
    "a list": safetensors(b"[]"),
    "leading space": safetensors(b" {}"),
    "not UTF-8": safetensors(b'{"\xff": 1}'),
    "nested": safetensors(b'{"a":' + b"[" * 100_000),
    "duplicate tensor": safetensors(b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{}}'),
    "duplicate key in a tensor": safetensors(b'{"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
    "NaN": safetensors(b'{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,0]}}'),
    "tensor no object": safetensors({"a": 1}),
    "no dtype": safetensors({"a": {"shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
    "unknown dtype": safetensors({"a": tensor(0, 4, [1], "F33")}, b"\0" * 4),
    "dtype no text": safetensors({"a": tensor(0, 4, [1], [])}, b"\0" * 4),
    "no shape": safetensors({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, b"\0" * 4),
    "negative shape": safetensors({"a": tensor(0, 4, [-1, -1])}, b"\0" * 4),
    "boolean shape": safetensors({"a": tensor(0, 4, [True])}, b"\0" * 4),
    "fraction in shape": safetensors({"a": tensor(0, 4, [1.0])}, b"\0" * 4),
    "too many dimensions": safetensors({"a": tensor(0, 4, [1] * 65)}, b"\0" * 4),
    "no offsets": safetensors({"a": {"dtype": "F32", "shape": [1]}}, b"\0" * 4),
    "three offsets": safetensors({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1, 1]}}, b"\0"),
    "offsets swapped": safetensors({"a": tensor(4, 0, [1])}, b"\0" * 4),
    "wrong size for the shape": safetensors({"a": tensor(0, 4, [2])}, b"\0" * 4),
    "half a byte": safetensors({"a": tensor(0, 1, [1], "F4")}, b"\0"),
    "hole": safetensors({"a": tensor(0, 4, [1]), "b": tensor(8, 12, [1])}, b"\0" * 12),
    "hole at the start": safetensors({"a": tensor(4, 8, [1])}, b"\0" * 8),
    "overlap": safetensors({"a": tensor(0, 4, [1]), "b": tensor(2, 6, [1])}, b"\0" * 6),
    "cut off": safetensors({"a": tensor(0, 4, [1])}, b"\0" * 3),
    "trailing bytes": safetensors({"a": tensor(0, 4, [1])}, b"\0" * 5),
    "no tensor but bytes": safetensors({}, b"\0"),
    "metadata no object": safetensors({"__metadata__": []}),
    "metadata no text": safetensors({"__metadata__": {"a": 1}}),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_a_broken_safetensors_file_is_refused(folder, data):
    (folder / "adapter_model.safetensors").write_bytes(data)
    with pytest.raises(InputError, match=r"adapter_model\.safetensors"):
        Manifest.of_folder(folder)


def test_a_sound_safetensors_file_of_every_kind_is_taken(folder):
    header = {
        "__metadata__": {"format": "pt"},
        "b": tensor(4, 20, [2, 2]),
        "a": tensor(0, 4, []),
        "empty": tensor(20, 20, [0, 7]),
        "half": tensor(20, 24, [2], "BF16"),
        "four": tensor(24, 25, [2], "F4"),
    }
    (folder / "adapter_model.safetensors").write_bytes(safetensors(header, b"\0" * 25))
    assert len(Manifest.of_folder(folder).files) == 3


@pytest.mark.parametrize("linked", ["file", "folder", "dangling"])
def test_a_link_in_the_folder_is_refused(folder, tmp_path, linked):
    target = tmp_path / "secret"
    if linked == "file":
        target.write_text("no")
    elif linked == "folder":
        target.mkdir()
    (folder / "sub" / "link").symlink_to(target)
    with pytest.raises(InputError, match="link"):
        Manifest.of_folder(folder)


def test_the_folder_itself_may_be_a_link(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert Manifest.of_folder(tmp_path / "link") == Manifest.of_folder(folder)


def test_a_pipe_or_socket_is_refused_and_not_waited_for(folder, monkeypatch):
    os.mkfifo(folder / "pipe")
    with pytest.raises(InputError, match="no plain file"):
        Manifest.of_folder(folder)
    (folder / "pipe").unlink()
    monkeypatch.chdir(folder)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        with pytest.raises(InputError, match="no plain file"):
            Manifest.of_folder(folder)


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ([b"\xff.txt"], "UTF-8"),
        ([b"a\\b.txt"], "Windows"),
        ([b"c:x.txt"], "Windows"),
        ([b"a\nb.txt"], "control"),
        ([b"a.txt", b"A.txt"], "one file"),
        (["ä.txt".encode(), "a\u0308.txt".encode()], "one file"),
    ],
    ids=str,
)
def test_a_file_name_that_is_not_the_same_everywhere_is_refused(folder, names, problem):
    for name in names:
        with open(os.fsencode(folder) + b"/" + name, "wb"):  # noqa: PTH123  (a name that is no text)
            pass
    with pytest.raises(InputError, match=problem) as caught:
        Manifest.of_folder(folder)
    str(caught.value).encode()  # can be printed


def test_what_is_no_folder_or_empty_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "none", tmp_path / "empty"):
        with pytest.raises(InputError):
            Manifest.of_folder(path)


def test_hidden_files_and_a_runs_record_are_left_out(folder):
    before = Manifest.of_folder(folder).digest
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x").write_text("x")
    (folder / "training.json").write_text("{}")
    (folder / "tensorboard").mkdir()
    (folder / "tensorboard" / "events").write_text("x")
    assert Manifest.of_folder(folder).digest == before
