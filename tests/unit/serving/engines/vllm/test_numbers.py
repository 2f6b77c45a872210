"""A request of vLLM whose logits are no numbers ends with an error, its version is named, and the cache is cleared."""

import asyncio
import math
from types import SimpleNamespace

import pytest
import torch

from llamafarm_ray.errors import DeploymentError
from llamafarm_ray.serving.engines.vllm.numbers import NumbersWorker, watch_logits


class Client:
    """The parts of vLLM's ``AsyncLLM`` that are used, over requests by their ids and versions."""

    def __init__(self, **versions):
        self.seen, self.errors, self.calls = [], {}, []
        states = {
            request: SimpleNamespace(
                lora_name=name,
                queue=SimpleNamespace(put=lambda error, request=request: self.errors.update({request: error})),
            )
            for request, name in versions.items()
        }
        self.output_processor = SimpleNamespace(request_states=states, process_outputs=self._process)
        self.cleared = asyncio.Event()

    def _process(self, outputs, timestamp, *, weight_version=None):
        self.seen += [output.request_id for output in outputs]
        return timestamp, weight_version

    async def collective_rpc(self, name):
        self.calls.append(name)
        await self.cleared.wait()

    def step(self, **nans):
        outputs = [SimpleNamespace(request_id=name, num_nans_in_logits=number) for name, number in nans.items()]
        return self.output_processor.process_outputs(outputs, 1.0, weight_version="v")


def test_numbers_pass_as_they_are():
    async def scenario():
        client, bad = Client(a="bot"), []
        watch_logits(client, bad.append)
        assert client.step(a=0) == (1.0, "v")
        assert (client.seen, client.errors, client.calls, bad) == (["a"], {}, [], [])

    asyncio.run(scenario())


def test_the_first_version_is_named_and_those_that_caught_a_nan_from_it_are_not():
    async def scenario():
        client, bad = Client(a="bad", b="good", c=None), []
        watch_logits(client, bad.append)
        client.step(a=5, b=0, c=0)
        await asyncio.sleep(0.01)
        client.step(b=5, c=5)  # before the cache is clear
        assert bad == ["bad"]
        assert client.calls == ["clear_not_numbers"]
        assert client.seen == ["b", "c"]
        assert set(client.errors) == {"a", "b", "c"}
        with pytest.raises(DeploymentError, match="bad computed logits that are no numbers"):
            raise client.errors["a"]
        client.cleared.set()
        await asyncio.sleep(0.01)
        client.step(b=5)
        assert bad == ["bad", "good"]

    asyncio.run(scenario())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_cache_is_cleared_of_what_is_no_number_and_of_nothing_else(value):
    clean, spoilt, integers = torch.ones(3, 4), torch.ones(3, 4), torch.ones(2, dtype=torch.uint8)
    spoilt[1, 2] = value
    expected = spoilt.clone()
    expected[1, 2] = 0
    worker = NumbersWorker()
    worker.model_runner = SimpleNamespace(kv_caches=[clean, spoilt, integers])
    assert worker.clear_not_numbers() == 1
    assert torch.equal(spoilt, expected)
    assert torch.equal(clean, torch.ones(3, 4))
