"""The names inside vLLM that this package relies on, read from its source: importing it takes ten seconds.

What they do is seen by tests/integration; here an upgrade that renames one fails with the name.
"""

import ast
import importlib.util
from pathlib import Path

import pytest

VLLM = Path(importlib.util.find_spec("vllm").submodule_search_locations[0])
NAMES = {
    "entrypoints/openai/models/serving.py": {
        "load_lora_adapter",
        "unload_lora_adapter",
        "lora_requests",
        "lora_resolver_lock",
    },
    "entrypoints/serve/engine/protocol.py": {"ErrorResponse"},
    "entrypoints/serve/lora/protocol.py": {"LoadLoRAAdapterRequest", "UnloadLoRAAdapterRequest", "lora_name"},
    "exceptions.py": {"VLLMValidationError"},
    "lora/ops/torch_ops/lora_ops.py": {"bgmv_expand", "bgmv_expand_slice", "bgmv_shrink"},
    "lora/punica_wrapper/punica_cpu.py": {"PunicaWrapperCPU"},
    "config/model.py": {"get_vocab_size", "is_multimodal_model"},
    "platforms/interface.py": {"is_cpu"},
    "renderers/base.py": {"tokenizer", "validate_token_ids", "max_token_id", "get_vocab_size"},
    "sampling_params.py": {"StructuredOutputsParams", "_backend"},
    "utils/ompmultiprocessing.py": {"OMPProcessManager", "configure_omp_envs"},
    "v1/engine/async_llm.py": {"renderer", "model_config"},
    "v1/engine/core.py": {"StructuredOutputManager"},
    "v1/engine/output_processor.py": {"request_states"},
    "v1/engine/utils.py": {"get_mp_context"},
    "v1/structured_output/__init__.py": {"StructuredOutputManager", "grammar_init", "clear_backend", "backend"},
    "v1/worker/cpu_model_runner.py": {"CPUModelRunner"},
    "v1/worker/cpu_worker.py": {"CPUWorker", "CPUModelRunner"},
}


def names_in(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.name
            case ast.Name():
                yield node.id
            case ast.Attribute():
                yield node.attr
            case ast.alias():
                yield node.asname or node.name


@pytest.mark.parametrize("module", NAMES)
def test_what_is_relied_on_of_vllm_is_there(module):
    assert NAMES[module] - set(names_in(VLLM / module)) == set()
