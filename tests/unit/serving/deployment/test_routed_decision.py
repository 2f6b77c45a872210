"""A replica believes what the router decided, and nobody else."""

import asyncio

import pytest
from tiny_model import make_tiny_model

from llamafarm_ray.registry import RegistryService, find_base
from llamafarm_ray.serving.deployment.adapter_manager import Served
from llamafarm_ray.serving.deployment.replica import Replica
from llamafarm_ray.serving.routing.signed_header import HeaderSigner
from llamafarm_ray.storage import Location


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("replica") / "tiny")


@pytest.mark.parametrize("secret", ["", "s3cret"])
def test_a_decision_is_believed_from_the_router_alone(base, tmp_path, secret):
    decision = "bot:1.0.0#x;candidate;bot@production#1"

    def passed_on(*headers):
        seen = []

        async def app(scope, receive, send):
            seen.extend(scope["headers"])

        digest = find_base(str(base), RegistryService(Location(tmp_path))).digest
        served = Served(str(tmp_path), "tiny", digest, secret=secret)
        scope = {"type": "http", "method": "POST", "headers": [*headers, (b"host", b"h")]}
        asyncio.run(Replica(served, None, 1.0).front(app)(scope, None, None))
        return seen[:-1]

    name = b"serve_multiplexed_model_id"
    for forged in (
        decision,
        HeaderSigner("other").close(decision),
        HeaderSigner("").close(decision),
        "",
        "0" * 32 + decision,
        "\xff",
    ):
        assert passed_on((name, forged.encode("latin-1")), (b"Serve_Multiplexed_Model_Id", b"y")) == []
    sealed = HeaderSigner(secret).close(decision)
    assert passed_on((name, sealed.encode())) == ([(name, decision.encode())] if secret else [])
    assert passed_on((name, (sealed + "2").encode())) == []
