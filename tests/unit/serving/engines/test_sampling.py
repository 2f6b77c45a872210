"""Tokens are drawn at any temperature that a request may name."""

import pytest

from llamafarm_ray.serving.engines.base import SamplingParams


@pytest.mark.parametrize("temperature", [0, 5e-324, 1e-320, 1e-40, 1e-38, 1e-6, 1e-3])
@pytest.mark.parametrize("limits", [{}, {"top_k": 1}, {"top_k": 5, "top_p": 1e-300}])
def test_the_most_probable_token_comes_at_the_smallest_temperatures(temperature, limits):
    import torch

    from llamafarm_ray.serving.engines.sampling import Sampler

    logits = torch.linspace(-40, 40, 9)[torch.tensor([3, 1, 8, 0, 2, 7, 4, 6, 5])]
    draw = Sampler(SamplingParams(max_tokens=1, temperature=temperature, seed=2**63 - 1, **limits))
    assert [draw(logits) for _ in range(3)] == [2, 2, 2]
