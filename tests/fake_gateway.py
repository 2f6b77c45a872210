"""A gateway over a fake engine: an ASGI app that answers as vLLM does, and remembers what reached it."""

import asyncio
import collections
import contextlib
import dataclasses
import datetime as dt
import json

import httpx
from counting_meters import CountingMeters

from llamafarm_ray.registry import Change, Commit, RegistryState, VersionRegistered
from llamafarm_ray.registry.events import AliasMoved, PrincipalAdded, PrincipalRevoked
from llamafarm_ray.registry.governance.access import Role, token_digest
from llamafarm_ray.registry.log import GENESIS
from llamafarm_ray.serving.gateway.auth import Keys
from llamafarm_ray.serving.gateway.feedback import FeedbackLog
from llamafarm_ray.serving.gateway.gateway import Gateway
from llamafarm_ray.serving.routing.resolution import resolve, resolve_routed, served_models
from llamafarm_ray.serving.selection.catalog import ModelCatalog
from llamafarm_ray.serving.selection.latencies import Latencies
from llamafarm_ray.serving.selection.peers import PeerModels
from llamafarm_ray.serving.telemetry.metrics import Telemetry
from llamafarm_ray.serving.telemetry.rollout_windows import RolloutWindows
from llamafarm_ray.storage import Location
from llamafarm_ray.types import Digest, ModelKind

BASE, ONE, TWO = Digest.of(b"base"), Digest.of(b"1"), Digest.of(b"2")
BOT = f"bot:1.0.0#{ONE.short}"
CHAT = {"model": "bot", "messages": [{"role": "user", "content": "A llama?"}]}
NOW = dt.datetime(2026, 11, 22, 12, 0, tzinfo=dt.UTC)
ANN, BEN, OLD, GONE = "lfr_ann", "lfr_ben", "lfr_old", "lfr_gone"
ADAPTERS = {"bot": ONE, "team/bot": TWO, "team/tuned": ONE}


def adapter(model, version, manifest, base=BASE):
    return VersionRegistered(
        model=model, version=version, kind=ModelKind.ADAPTER, manifest=manifest, size_bytes=1, base_digest=base
    )


def state_of(*events):
    change = Change(time=NOW, principal="x", idempotency_key="k", events=events)
    return RegistryState().after(Commit(sequence=1, previous=GENESIS.digest, time=NOW, changes=(change,)))


def models_state(*more):
    """``bot`` (production: 1.0.0), ``team/bot`` and ``team/tuned``, adapters of the base ``tiny``."""
    events = [adapter(name, "1.0.0", manifest) for name, manifest in ADAPTERS.items()]
    return state_of(*events, AliasMoved(model="bot", alias="production", version="1.0.0"), *more)


def principal(name, token, grants, expires=None):
    return PrincipalAdded(name=name, token_digest=token_digest(token), grants=grants, expires=expires)


def keyed_state():
    """Ann is the admin, Ben may read what is in ``team/``; two others have keys that are worth nothing any more."""
    return models_state(
        principal("ann", ANN, {"*": Role.ADMIN}),
        principal("ben", BEN, {"team": Role.VIEWER}),
        principal("old", OLD, {"*": Role.VIEWER}, NOW - dt.timedelta(seconds=1)),
        principal("gone", GONE, {"*": Role.VIEWER}),
        PrincipalRevoked(name="gone"),
    )


class Models:
    """What a replica does for the gateway, without an engine to load into."""

    def __init__(self, state, base=("tiny", BASE)):
        self.state = state
        self.base = {"base_name": base[0], "base_digest": base[1]}
        self.found, self.callers = [], []
        self.in_use = collections.Counter()
        self.variant = self.shadow = None
        self.latencies = Latencies()
        self._offers = ModelCatalog(**self.base)
        self.peers, self.elsewhere = (), PeerModels(lambda *_: True)

    def resolve(self, model):
        return resolve(model, self.state, **self.base)

    async def find(self, model, caller=None):
        if caller is None:
            target = resolve_routed(model, self.state, **self.base)
        else:
            target = dataclasses.replace(self.resolve(model), variant=self.variant, shadow=self.shadow)
        self.found.append(model)
        self.callers.append(caller)
        return target

    @contextlib.asynccontextmanager
    async def use(self, target):
        self.in_use[target.engine_name] += 1
        try:
            yield
        finally:
            self.in_use[target.engine_name] -= 1

    def names(self):
        return served_models(self.state, **self.base)

    async def describe(self, names):
        return self._offers.of(names, self.state, self.latencies)

    async def offers(self, caller, headers):
        own = self._offers.to_choose_from(self.state, self.latencies, caller)
        return own + self.elsewhere.to_choose_from(self.peers, self.state, caller, headers)


def telemetry(meters=None, **options):
    """Telemetry of a replica that knows of no rollout."""
    return Telemetry(meters or CountingMeters(), RolloutWindows(tuple), **options)


@dataclasses.dataclass
class Seen:
    """A request that reached the engine."""

    path: str
    headers: dict[bytes, bytes]
    body: dict


class Engine:
    """Counts a word as a token. An answer has as many as ``max_tokens`` says, each an event of a stream."""

    def __init__(self, seconds=0.0):
        self.seen = []
        self.seconds = seconds
        self.num_running = self.most_running = 0

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        data = bytearray()
        while True:
            message = await receive()
            data += message.get("body", b"")
            if not message.get("more_body"):
                break
        body = json.loads(data) if data else {}
        self.seen.append(Seen(scope["path"], dict(scope["headers"]), body))
        assert int(dict(scope["headers"]).get(b"content-length", len(data))) == len(data)
        if body.get("stream"):
            await self._work(scope["path"], body, send)
            return
        # As vLLM's `with_cancellation`: who leaves is not answered, and a cancellation stops the wait alone.
        answering = asyncio.create_task(self._work(scope["path"], body, send))
        leaving = asyncio.create_task(self._listen(receive))
        _, pending = await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        if answering.done():
            answering.result()

    async def _listen(self, receive):
        while (await receive())["type"] != "http.disconnect":
            pass

    async def _work(self, path, body, send):
        self.num_running += 1
        self.most_running = max(self.most_running, self.num_running)
        try:
            await asyncio.sleep(self.seconds)
            await self._answer(path, body, send)
        finally:
            self.num_running -= 1

    async def _answer(self, path, body, send):
        num_prompt, num_completion = words(body), body.get("max_tokens") or 4
        usage = {"prompt_tokens": num_prompt, "completion_tokens": num_completion}
        if path == "/tokenize":
            await whole(send, {"count": num_prompt, "tokens": []})
        elif not body.get("stream"):
            text = "".join(f" {n}" for n in range(num_completion))
            await whole(send, {"id": "cmpl-1", "model": body.get("model"), "choices": [{"text": text}], "usage": usage})
        else:
            await start(send, b"text/event-stream; charset=utf-8")
            for number in range(num_completion):
                await event(send, {"choices": [{"text": f" {number}"}]})
            if (body.get("stream_options") or {}).get("include_usage"):
                await event(send, {"choices": [], "usage": usage})
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    async def _lifespan(self, receive, send):
        for kind in ("startup", "shutdown"):
            assert (await receive())["type"] == f"lifespan.{kind}"
            await send({"type": f"lifespan.{kind}.complete"})


def words(body):
    texts = [body["prompt"]] if "prompt" in body else [turn["content"] for turn in body.get("messages", [])]
    return sum(len(text.split()) for text in texts if isinstance(text, str))


async def start(send, media_type):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", media_type)]})


async def whole(send, value):
    await start(send, b"application/json")
    await send({"type": "http.response.body", "body": json.dumps(value).encode()})


async def event(send, value):
    data = b"data: " + json.dumps(value).encode() + b"\n\n"
    await send({"type": "http.response.body", "body": data, "more_body": True})


class Server:
    """A gateway and its surroundings.

    Args:
        state: the registry's; by default without principals.
        base: name and digest of the base model.
        home: home that gets the feedback.
        engine: by default one that answers at once.
        required: True if keys are required.
        allowed_hosts: names that requests without a key may use.
        **options: of the gateway.
    """

    def __init__(
        self,
        *,
        state=None,
        base=("tiny", BASE),
        home="memory://gateway",
        engine=None,
        required=None,
        allowed_hosts=(),
        **options,
    ):
        self.models = Models(state or models_state(), base)
        self.engine = engine or Engine()
        self.feedback = FeedbackLog(Location(home), linger_s=0.01)
        keys = Keys(lambda: self.models.state, required=required, allowed_hosts=allowed_hosts, now=lambda: NOW)
        self.models.elsewhere = PeerModels(keys.admit_to)
        self.meters = CountingMeters()
        self.telemetry = telemetry(self.meters)
        self.gateway = Gateway(
            self.engine, self.models, keys=keys, feedback=self.feedback, telemetry=self.telemetry, **options
        )

    def client(self, key=None):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        transport = httpx.ASGITransport(app=self.gateway)
        return httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers)

    def request(self, method, path, *, key=None, **options):
        """One request, and the response to it."""

        async def once():
            async with self.client(key) as client:
                return await client.request(method, path, **options)

        return asyncio.run(once())

    def post(self, path, body, *, key=None, headers=None):
        """One POST of plain values, or of bytes that claim to be JSON."""
        if isinstance(body, bytes):
            return self.request(
                "POST", path, key=key, content=body, headers={"content-type": "application/json", **(headers or {})}
            )
        return self.request("POST", path, key=key, json=body, headers=headers)


def is_openai_error(response):
    """Whether a response has the shape that OpenAI's clients take apart."""
    error = response.json()["error"]
    return set(error) == {"message", "type", "param", "code"} and bool(error["message"]) and bool(error["code"])
