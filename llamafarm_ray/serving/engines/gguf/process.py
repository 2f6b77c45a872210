"""llama.cpp's server in a process of its own: ``python -m llamafarm_ray.serving.engines.gguf.process``.

It reads its settings as one line of JSON from standard input, writes a line when it answers, and ends when standard
input does: with the process that started it, however that one ends. It imports nothing of ours.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def _parameters(settings: dict[str, Any]) -> object:
    import xllamacpp

    made = xllamacpp.CommonParams()
    made.model.path = settings["model"]
    if settings["lora"] is not None:
        lora = xllamacpp.CommonAdapterLoraInfo()
        lora.path, lora.scale = settings["lora"], 1.0
        made.lora_adapters = [lora]
    made.hostnames, made.api_keys = [settings["socket"]], [settings["key"]]
    made.offline, made.ui, made.endpoint_slots, made.verbosity = True, False, False, 1
    made.n_ctx, made.n_parallel = settings["max_model_len"] * settings["n_parallel"], settings["n_parallel"]
    made.fit_params = False  # as much context as was asked for, or an error
    made.cache_ram_mib = 0  # prompts of answers that ended are kept in their slots alone
    if settings["n_threads"] is not None:
        made.cpuparams.n_threads = made.cpuparams_batch.n_threads = settings["n_threads"]
    if settings["embedding"]:
        made.embedding, made.n_batch, made.n_ubatch = True, settings["max_model_len"], settings["max_model_len"]
    for name in ("n_batch", "n_ubatch"):
        if settings[name] is not None:
            setattr(made, name, settings[name])
    cache = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{settings['cache_type'].upper()}")
    made.cache_type_k = made.cache_type_v = cache
    if settings["flash_attention"] is not None:
        word = "ENABLED" if settings["flash_attention"] else "DISABLED"
        made.flash_attn_type = getattr(xllamacpp.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{word}")
    return made


def main() -> None:
    """See the module's text."""
    import xllamacpp

    settings = json.loads(sys.stdin.readline())
    try:
        _server = xllamacpp.Server(_parameters(settings))  # which serves for as long as there is a name for it
    except (RuntimeError, ValueError, TypeError) as error:
        sys.exit(str(error))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
    os._exit(0)  # nothing is left to be written, and no thread of llama.cpp's is waited for


if __name__ == "__main__":
    main()
