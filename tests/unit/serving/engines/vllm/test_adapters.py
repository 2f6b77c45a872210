"""Why vLLM refuses an adapter, in words that clients and operators can use."""

from pathlib import Path

import pytest

from llamafarm_ray.serving.engines.vllm.adapters import _reason

FOLDER = Path("/srv/home/cache/ab12")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("Call to add_lora method failed: LoRA rank 32 is greater than 16.", "LoRA rank 32 is greater than 16."),
        (f"No tensors in {FOLDER}/adapter.", "No tensors in its folder/adapter."),
        ("Call to add_lora method failed: ", "it gives no reason."),
        ("x" * 9999, "x" * 500),
    ],
)  # fmt: skip
def test_the_reason_names_neither_vllms_method_nor_the_servers_folder(message, reason):
    assert _reason(message, FOLDER) == reason
