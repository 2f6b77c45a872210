"""Model files that are not what they say are refused in words, and take no process down with them."""

import asyncio
import random
import shutil
import struct

import pytest
from gguf_files import write_gguf, write_lora
from tiny_model import make_tiny_model

from llamafarm_ray.errors import InputError, UserError
from llamafarm_ray.serving.engines.gguf.engine import GgufEngine
from llamafarm_ray.storage import Manifest
from llamafarm_ray.storage.formats.gguf import read_gguf
from llamafarm_ray.storage.formats.onnx import check_onnx

HEAD = b"GGUF" + struct.pack("<I", 3)
ARCHITECTURE = b"general.architecture"


def text(value):
    return struct.pack("<Q", len(value)) + value


LLAMA = text(ARCHITECTURE) + struct.pack("<I", 8) + text(b"llama")


def gguf(num_tensors, *facts, tail=b"", architecture=LLAMA):
    counts = struct.pack("<QQ", num_tensors, len(facts) + (1 if architecture else 0))
    return HEAD + counts + architecture + b"".join(facts) + tail


def fact(name, kind, value):
    return text(name) + struct.pack("<I", kind) + value


def tensor(name=b"t", shape=(4,), kind=0, begin=0):
    return text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}QIQ", *shape, kind, begin)


def padded(data, size):
    return data + b"\0" * (-len(data) % 32) + b"\0" * size


HUGE = 2**62
BROKEN_GGUF = {
    "empty": b"",
    "another format": b"GGML" + b"\0" * 60,
    "the first version": b"GGUF" + struct.pack("<I", 1) + b"\0" * 60,
    "big-endian": b"GGUF" + struct.pack(">I", 3) + b"\0" * 60,
    "cut off": gguf(0)[:-3],
    "many facts": HEAD + struct.pack("<QQ", 0, HUGE),
    "many tensors": HEAD + struct.pack("<QQ", HUGE, 0),
    "a long name": gguf(0, struct.pack("<Q", HUGE)),
    "a long text": gguf(0, fact(b"x", 8, struct.pack("<Q", HUGE))),
    "a long list": gguf(0, fact(b"x", 9, struct.pack("<IQ", 0, HUGE))),
    "a list of many texts": gguf(0, fact(b"x", 9, struct.pack("<IQ", 8, 2**40))),
    "a list of lists": gguf(0, fact(b"x", 9, struct.pack("<IQ", 9, 1))),
    "an unknown type": gguf(0, fact(b"x", 77, b"\0" * 8)),
    "a fact twice": gguf(0, *[fact(b"x", 0, b"\1")] * 2),
    "no architecture": gguf(0, architecture=b""),
    "an architecture that is a number": gguf(0, architecture=fact(ARCHITECTURE, 0, b"\1")),
    "bytes that are no text": gguf(0, fact(b"x", 8, text(b"\xff\xfe"))),
    "an alignment of 3": gguf(0, fact(b"general.alignment", 4, struct.pack("<I", 3))),
    "an alignment of 0": gguf(0, fact(b"general.alignment", 4, struct.pack("<I", 0))),
    "five dimensions": padded(gguf(1, tail=tensor(shape=(1,) * 5)), 64),
    "no dimensions": padded(gguf(1, tail=tensor(shape=())), 64),
    "an empty tensor": padded(gguf(1, tail=tensor(shape=(0,))), 64),
    "a tensor of 2^80 values": padded(gguf(1, tail=tensor(shape=(2**40, 2**40))), 64),
    "a tensor beyond the end": padded(gguf(1, tail=tensor(shape=(64,))), 64),
    "a tensor far away": padded(gguf(1, tail=tensor(begin=HUGE)), 64),
    "a tensor between": padded(gguf(1, tail=tensor(begin=3)), 64),
    "an unknown tensor type": padded(gguf(1, tail=tensor(kind=4)), 64),
    "half a block": padded(gguf(1, tail=tensor(shape=(16,), kind=2)), 64),
    "tensors that overlap": padded(gguf(2, tail=tensor(b"a", (16,)) + tensor(b"b", (16,))), 256),
    "a tensor twice": padded(gguf(2, tail=tensor(begin=0) + tensor(begin=32)), 256),
}


@pytest.mark.parametrize("data", BROKEN_GGUF.values(), ids=BROKEN_GGUF)
def test_a_broken_gguf_file_is_not_published(tmp_path, data):
    (tmp_path / "model.gguf").write_bytes(data)
    with pytest.raises(InputError, match="no sound GGUF file"):
        Manifest.of_folder(tmp_path)


def test_a_sound_gguf_file_is_read(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(padded(gguf(2, tail=tensor(b"a") + tensor(b"b", (32, 2), 8, 32)), 32 + 68))
    assert read_gguf(path).tensors == {"a": (4,), "b": (32, 2)}
    assert Manifest.of_folder(tmp_path) == Manifest.of_file(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return write_gguf(make_tiny_model(folder / "base"), folder / "gguf" / "model.gguf")


def test_a_file_with_any_byte_changed_or_cut_off_is_read_or_refused(model, tmp_path):
    whole, random_ = model.read_bytes(), random.Random(7)
    broken = tmp_path / "broken.gguf"
    refused = 0
    for _ in range(300):
        data = bytearray(whole[: random_.choice([len(whole), random_.randrange(len(whole))])])
        for _ in range(random_.randrange(1, 4)):
            if data:
                data[random_.randrange(min(len(data), 4000))] = random_.randrange(256)
        broken.write_bytes(data)
        try:
            read_gguf(broken)
        except InputError:
            refused += 1
    assert refused > 150


def changed(model, folder, name, value):
    """A copy of a file in which a fact is another number."""
    from gguf import GGUFReader

    folder.mkdir(parents=True)
    path = shutil.copyfile(model, folder / "model.gguf")
    reader = GGUFReader(path, "r+")
    reader.get_field(name).parts[-1][0] = value
    reader.data.flush()
    return path


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("llama.context_length", 2**31, "GiB; this machine has"),
        ("llama.embedding_length", 2**30, "GiB; this machine has"),
        ("llama.embedding_length", 128, "can't load"),
        ("llama.block_count", 3, "can't load"),
        ("llama.attention.head_count", 0, "layers and heads"),
        ("llama.attention.head_count_kv", 77, "can't load"),
        ("llama.rope.dimension_count", 7, "can't load"),
    ],
)
def test_a_file_whose_numbers_do_not_fit_is_refused_by_the_running_engine(model, tmp_path, name, value, told):
    """Each is a version that somebody rolls out: the base model goes on answering."""
    changed(model, tmp_path / "bad", name, value)

    async def scenario():
        engine = GgufEngine("tiny", model, n_parallel=1, n_threads=1)
        with pytest.raises(InputError, match=told):
            await engine.load_adapter("bad", tmp_path / "bad")
        return engine.loaded, engine.tokenizer("A llama?")

    loaded, tokens = asyncio.run(scenario())
    assert loaded == ["tiny"]
    assert tokens["input_ids"]


def test_what_is_no_version_of_the_base_model_is_refused(model, tmp_path):
    other = make_tiny_model(tmp_path / "wide", hidden_size=128)
    write_lora(tmp_path / "lora" / "a.gguf", other)
    (tmp_path / "two").mkdir()
    for name in ("a", "b"):
        shutil.copyfile(model, tmp_path / "two" / f"{name}.gguf")
    engine = GgufEngine("tiny", model, n_parallel=1, n_threads=1)
    with pytest.raises(UserError, match="can't load"):
        asyncio.run(engine.load_adapter("lora", tmp_path / "lora"))
    with pytest.raises(InputError, match=r"holds a\.gguf, b\.gguf"):
        asyncio.run(engine.load_adapter("two", tmp_path / "two"))
    with pytest.raises(InputError, match="is an adapter"):
        GgufEngine("tiny", tmp_path / "lora")
    with pytest.raises(InputError, match="n_parallel is 0"):
        GgufEngine("tiny", model, n_parallel=0)


def number(field, value):
    return bytes([field << 3, value])


def message(field, value):
    out, length = bytes([field << 3 | 2]), len(value)
    while length > 127:
        out, length = out + bytes([length & 127 | 128]), length >> 7
    return out + bytes([length]) + value


def beside(name, kind=b"location"):
    """A model with a tensor whose bytes are in another file."""
    entry = message(1, kind) + message(2, name)
    return number(1, 10) + message(7, message(5, message(13, entry)))


def within(inner, depth):
    """A model whose graph is in a node's attribute, and so on."""
    for _ in range(depth):
        inner = message(1, message(5, message(6, inner)))
    return number(1, 10) + message(7, inner)


HOSTILE_TENSOR = message(5, message(13, message(1, b"location") + message(2, b"../../etc/passwd")))
BROKEN_ONNX = {
    "empty": (b"", "empty"),
    "a text": (b"this is no model at all", "protocol buffer|cut off|no graph"),
    "no graph": (number(1, 10), "no graph"),
    "cut off": (number(1, 10) + message(7, b"x" * 100)[:50], "cut off"),
    "a length of 2^63": (number(1, 10) + b"\x3a" + b"\xff" * 8 + b"\x7f", "cut off"),
    "a number without end": (b"\x08" + b"\xff" * 30, "too long"),
    "a file above": (beside(b"../weights.data"), "no plain file name"),
    "a file elsewhere": (beside(b"/etc/passwd"), "no plain file name"),
    "a file in Windows' words": (beside(b"..\\weights.data"), "no plain file name"),
    "the folder": (beside(b".."), "no plain file name"),
    "no name": (beside(b""), "no plain file name"),
    "a file that is not there": (beside(b"weights.data"), "not there"),
    "a file that is a link": (beside(b"link.data"), "not there"),
    "a file above, in a graph of a graph": (within(HOSTILE_TENSOR, 3), "no plain file name"),
    "graphs without end": (within(b"", 60), "deep"),
}


@pytest.mark.parametrize(("data", "told"), BROKEN_ONNX.values(), ids=BROKEN_ONNX)
def test_a_hostile_onnx_file_is_not_published(tmp_path, data, told):
    (tmp_path / "model.onnx").write_bytes(data)
    (tmp_path / "link.data").symlink_to("/etc/passwd")
    with pytest.raises(InputError, match=told):
        check_onnx(tmp_path / "model.onnx")


def test_tensors_beside_the_model_are_fine(tmp_path):
    (tmp_path / "model.onnx").write_bytes(beside(b"model.onnx_data"))
    (tmp_path / "model.onnx_data").write_bytes(b"\0" * 64)
    assert len(Manifest.of_folder(tmp_path).files) == 2
