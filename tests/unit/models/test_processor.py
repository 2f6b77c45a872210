import pytest
import torch

from llamafarm_ray.models.processor import matmul_dtype


@pytest.mark.parametrize(
    ("features", "dtype"),
    [
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"avx2": True, "avx512_bf16": False}, torch.float32),
    ],
)
def test_a_cpu_computes_in_bf16_only_if_it_multiplies_in_it(monkeypatch, features, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert matmul_dtype(torch.device("cpu")) == dtype
