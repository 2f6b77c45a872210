"""The three servers that tests/benchmarks/serving.py compares, with the same engine arguments: each is a child process.

* ``ours``: ``llamafarm models deploy`` with a Ray of its own,
* ``bare``: vLLM's own server, the adapters given when it starts,
* ``stock``: ``ray.serve.llm.build_openai_app`` as it comes, with a Ray of its own. It serves the base model only: its
  adapters must come from S3, GCS or Azure.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]

from llamafarm_ray.clusters.ports import free_port

__all__ = ["BASE", "Bare", "Ours", "Server", "Stock", "make_base"]

BASE = "base"
"""What requests call the base model."""
READY_S = 240.0
STOP_S = 60.0
ENGINE: dict[str, Any] = {
    "enable_lora": True,
    "max_loras": 4,
    "max_lora_rank": 8,
    "max_num_seqs": 32,
    "max_model_len": 256,
    "dtype": "float32",
    "enforce_eager": True,
}
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}


def make_base(folder: Path) -> Path:
    """A Llama of 12M parameters with random weights, named :data:`BASE`."""
    import torch
    from tiny_model import make_tiny_tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=384,
        intermediate_size=1152,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder / BASE)
    tokenizer.save_pretrained(folder / BASE)
    return folder / BASE


@dataclass
class Server:
    """A server in a process of its own.

    Args:
        folder: for its log.
        base: the base model.
    """

    folder: Path
    base: Path
    url: str = ""
    _process: subprocess.Popen[bytes] | None = None
    _seen: set[psutil.Process] = field(default_factory=set)
    _stands_still: bool = False

    def start(self) -> float:
        """Start it; seconds until it had answered a request."""
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/v1"
        self._seen.clear()
        started = time.perf_counter()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command(port),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(),
                start_new_session=True,
            )
        while not self._answers():
            if self._process.poll() is not None or time.perf_counter() - started > READY_S:
                tail = self._log.read_text(errors="replace")[-4000:]
                self.stop()
                raise SystemExit(f"{type(self).__name__} does not answer:\n{tail}")
            time.sleep(0.05)
        seconds = time.perf_counter() - started
        self._settle()
        return seconds

    def stop(self) -> None:
        """End it and all that it started."""
        if self._process is None:
            return
        self.resume()
        tree = self._tree()
        self._process.terminate()
        _, left = psutil.wait_procs(tree, timeout=STOP_S)  # also those whose parent has died
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        self._process = None

    def pause(self) -> None:
        """Stop its processes where they are, so that they take nothing from the server that is measured."""
        for process in self._tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        self._stands_still = True

    def resume(self) -> bool:
        """Let them go on; whether they stood still."""
        for process in self._tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
        stood_still, self._stands_still = self._stands_still, False
        return stood_still

    @property
    def _log(self) -> Path:
        return self.folder / f"{type(self).__name__}.log"

    def _tree(self) -> list[psutil.Process]:
        assert self._process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            found = psutil.Process(self._process.pid)
            self._seen.update([found, *found.children(recursive=True)])
        return [process for process in self._seen if process.is_running()]

    def _settle(self) -> None:
        """Wait for what is still done after the first answer."""

    def _answers(self) -> bool:
        body = {"model": BASE, "prompt": "A llama", "max_tokens": 1}
        try:
            return httpx.post(f"{self.url}/completions", json=body, timeout=30).status_code == 200
        except httpx.TransportError:
            return False

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "VLLM_"))}
        return kept | ENVIRONMENT

    def _command(self, port: int) -> list[str]:
        raise NotImplementedError


@dataclass
class Bare(Server):
    """vLLM's own server.

    Args:
        adapters: folders by the names that requests use.
    """

    adapters: dict[str, Path] = field(default_factory=dict)

    def _command(self, port: int) -> list[str]:
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--model", str(self.base), "--served-model-name", BASE, "--host", "127.0.0.1", "--port", str(port)]
        for name, value in ENGINE.items():
            command += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
        modules = [f"{name}={folder}" for name, folder in self.adapters.items()]
        return [*command, "--disable-uvicorn-access-log", *(["--lora-modules", *modules] if modules else [])]


@dataclass
class Ours(Server):
    """This project's application.

    Args:
        home: the registry's.
        adapters: references of what is loaded before the first request.
        running_requests: number of requests that the engine works on at once.
    """

    home: Path = Path()
    adapters: list[str] = field(default_factory=list)
    running_requests: int = ENGINE["max_num_seqs"]

    def _command(self, port: int) -> list[str]:
        of_config = {"max_loras", "max_lora_rank", "max_model_len"}
        deployment = {
            "port": port,
            "adapters": self.adapters,
            "limits": {"running_requests": self.running_requests},
            **{name: ENGINE[name] for name in of_config},
        }
        config = self.folder / "ours.json"
        config.write_text(
            json.dumps({"home": str(self.home), "base_model": str(self.base), "deployment": deployment}),
            encoding="utf-8",
        )
        return [sys.executable, "-m", "llamafarm_ray", "models", "deploy", "--config", str(config), "--json"]

    def _settle(self) -> None:
        assert self._process is not None
        told = time.monotonic()
        while '"base_model"' not in self._log.read_text(errors="replace"):  # the command's result
            if self._process.poll() is not None or time.monotonic() - told > READY_S:
                raise SystemExit(f"The deployment failed:\n{self._log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.1)


@dataclass
class Stock(Server):
    """Ray Serve LLM as it comes."""

    def _command(self, port: int) -> list[str]:
        return [sys.executable, __file__, str(self.base), str(port)]


def _serve_stock(base: str, port: int) -> None:
    """What the process of :class:`Stock` does: the quickstart of Ray Serve LLM's documentation, on CPU."""
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions
    from ray.serve.llm import LLMConfig, build_openai_app

    ray.init(address="local", num_cpus=max(4, os.cpu_count() or 1), log_to_driver=False)
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port))
    config = LLMConfig(
        model_loading_config={"model_id": BASE, "model_source": base},
        accelerator_config={"kind": "cpu"},
        placement_group_config={"bundle_per_worker": {"CPU": 1}},
        deployment_config={"num_replicas": 1, "ray_actor_options": {"num_cpus": 0}},
        engine_kwargs=ENGINE,
        runtime_env={"env_vars": ENVIRONMENT},
    )
    serve.run(build_openai_app({"llm_configs": [config]}))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    stop.wait()
    ray.shutdown()


if __name__ == "__main__":
    _serve_stock(sys.argv[1], int(sys.argv[2]))
