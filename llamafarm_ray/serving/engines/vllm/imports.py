"""Imports of an engine's process; only the fork server that :mod:`.process` starts imports this module."""

import setproctitle

# The place of a process's title is found while its environment lies where it did at first; vLLM's import moves that.
setproctitle.getproctitle()

import vllm.v1.executor.uniproc_executor  # noqa: E402, F401

import llamafarm_ray.serving.engines.vllm.grammars  # noqa: E402
import llamafarm_ray.serving.engines.vllm.worker  # noqa: E402, F401
