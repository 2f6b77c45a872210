"""The least that counts as a model's files: weights of a few numbers, and manifests of one note."""

import json
import struct

from llamafarm_ray.storage import FileEntry, Manifest
from llamafarm_ray.types import Digest

__all__ = ["ONNX", "gguf_bytes", "note_digest", "safetensors_bytes", "safetensors_head", "store_note"]


def safetensors_head(num_values):
    """What stands before the values of a file with one tensor of 32-bit floats."""
    size_bytes = 4 * num_values
    header = json.dumps({"w": {"dtype": "F32", "shape": [num_values], "data_offsets": [0, size_bytes]}}).encode()
    return struct.pack("<Q", len(header)) + header


def safetensors_bytes(*values):
    """A file with one tensor of these values, by default of one zero."""
    numbers = values or (0.0,)
    return safetensors_head(len(numbers)) + struct.pack(f"<{len(numbers)}f", *numbers)


ONNX = b"\x08\x0a\x3a\x00"
"""A file with a version of the format and an empty graph."""


def gguf_bytes(**facts):
    """A GGUF file of a Llama without tensors, with these texts and numbers."""
    said = {"general.architecture": "llama", **{name.replace("__", "."): value for name, value in facts.items()}}
    pairs = b"".join(_text(name) + _value(value) for name, value in said.items())
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(said)) + pairs


def _text(text):
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _value(value):
    return struct.pack("<I", 8) + _text(value) if isinstance(value, str) else struct.pack("<II", 4, value)


def note_digest(text):
    """The digest of the manifest of one file, a note with this text."""
    return _manifest(text).digest


def store_note(content, text):
    """Store such a note, enough for a version, and its manifest's digest."""
    manifest = _manifest(text)
    content.publish_bytes(text.encode())
    content._write(content._manifest(manifest.digest), manifest.to_bytes())
    return manifest.digest


def _manifest(text):
    data = text.encode()
    return Manifest((FileEntry("note.txt", len(data), Digest.of(data), "text/plain"),))
