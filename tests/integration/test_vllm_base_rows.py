"""Tokens without an adapter, in a batch with adapters, on vLLM's kernels for CPUs."""

import pytest
import torch


@pytest.mark.parametrize("is_prefill", [True, False])
def test_tokens_without_an_adapter_are_left_alone_whatever_lies_in_the_last_slot(is_prefill):
    from vllm.lora.layers import LoRAMapping
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    from llamafarm_ray.serving.engines.vllm.base_rows import leave_base_rows_alone

    leave_base_rows_alone()
    torch.manual_seed(0)
    wrapper = PunicaWrapperCPU(max_num_batched_tokens=16, max_batches=4, device="cpu", max_loras=2)
    down, up = torch.randn(2, 1, 4, 8), torch.randn(2, 1, 6, 4)
    down[1] = float("nan")
    for ids in ((0, 0, 7, 7, 0), (7, 7), (0, 0)):
        mapping = LoRAMapping(index_mapping=ids, prompt_mapping=ids, is_prefill=is_prefill)
        wrapper.update_metadata(mapping, [7, 9], 2, 100)
        given, written = torch.randn(len(ids), 8), torch.randn(len(ids), 6)
        expected = written.clone()
        adapted = torch.tensor(ids) == 7
        expected[adapted] += 2 * given[adapted] @ down[0, 0].T @ up[0, 0].T
        wrapper.add_lora_linear(written, given, (down,), (up,), 2.0, (6,))
        torch.testing.assert_close(written, expected)
        assert torch.equal(written[~adapted], expected[~adapted])
