"""A small model as sources have it, and what arrives of it."""

from model_files import safetensors_bytes

from llamafarm_ray.storage.downloads.remote import Patience

QUICK = Patience(connect_s=10, read_s=30, attempts=3, first_wait_s=0.001, max_wait_s=0.01)

WEIGHTS = safetensors_bytes(*range(300))

CARD = b"---\nlicense: apache-2.0\n---\n# Tiny\n"

MODEL = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": WEIGHTS,
    "tokenizer.json": b"{}",
    "README.md": CARD,
    "pytorch_model.bin": b"\x80\x02",
    ".gitattributes": b"*",
    "onnx/model.onnx": b"onnx",
    "1_Pooling/config.json": b"{}",
}

CHOSEN = ["1_Pooling/config.json", "README.md", "config.json", "model.safetensors", "tokenizer.json"]


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def content(folder):
    return {name: (folder / name).read_bytes() for name in files(folder)}
