"""Gateway in front of a replica's HTTP app: listed routes only, authenticated requests, one version for each.

A plain ASGI middleware (https://asgi.readthedocs.io). In this order it checks the headers, the key (:mod:`.auth`), the
key's limits (:mod:`.limits`), the route, the body (:mod:`.validation`) and the key's access to the model. It resolves
the version, or the model for ``auto`` (:mod:`.auto_selection`; clients are sent on to other applications' models),
waits for a place in the queue (:mod:`.fair_queue`), loads the version and keeps it until the end of the answer
(:mod:`llamafarm_ray.serving.adapters.pool`), and checks the length of the prompt. Only then the engine gets the
request: with the version's engine name in its body, and with the few headers it needs. The response has the headers

* ``x-llamafarm-model: name:version``,
* ``x-llamafarm-digest: sha256:...`` (the manifest's; absent for the base model),
* ``x-llamafarm-variant: baseline`` or ``candidate``, while a rollout is under way for what the request named, and
* ``x-llamafarm-request-id``, which the engine's logs and the response's ``id`` hold too (``x-request-id`` is Ray
  Serve's, which gives a client its own back)
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from llamafarm_ray.config import Limits
from llamafarm_ray.errors import (
    DeploymentError,
    InputError,
    IntegrityError,
    LlamaFarmError,
    NotFoundError,
    StorageError,
)
from llamafarm_ray.models.token_bound import TokenBound
from llamafarm_ray.serving.gateway.auth import Keys, Tenant
from llamafarm_ray.serving.gateway.auto_selection import (
    AUTO_ROUTES,
    choose,
    is_to_stay,
    kind_of,
    refuse_limits,
    send_on,
)
from llamafarm_ray.serving.gateway.fair_queue import FairQueue
from llamafarm_ray.serving.gateway.feedback import FeedbackLog, FeedbackRequest, feedback_record
from llamafarm_ray.serving.gateway.health_report import HEALTH_ROUTE, HealthReport
from llamafarm_ray.serving.gateway.limits import Account, Accounts
from llamafarm_ray.serving.gateway.model_list import ModelList
from llamafarm_ray.serving.gateway.prompt_length import check_prompt
from llamafarm_ray.serving.gateway.proxied_request import ProxiedRequest
from llamafarm_ray.serving.gateway.token_quotas import TokenQuotas
from llamafarm_ray.serving.gateway.validation import (
    bound_generation,
    caller_of,
    check_headers,
    check_shape,
    read_object,
)
from llamafarm_ray.serving.http.asgi import App, Header, Message, Receive, Scope, Send, answer, refuse
from llamafarm_ray.serving.http.errors import FieldError, ModelNotFoundError
from llamafarm_ray.serving.journal.journal import Journal
from llamafarm_ray.serving.rollouts.mirror import Mirror
from llamafarm_ray.serving.routing.resolution import Target
from llamafarm_ray.serving.routing.traffic_split import NOBODY, Caller
from llamafarm_ray.serving.selection.model_selection import Offer
from llamafarm_ray.serving.telemetry.metrics import Telemetry
from llamafarm_ray.serving.telemetry.outcome import End, ResponseWatch
from llamafarm_ray.serving.telemetry.token_usage import COMPLETION_WEIGHT, Usage, UsageMeter, ask_for_usage
from llamafarm_ray.serving.telemetry.tracing import Span, Tracing
from llamafarm_ray.telemetry.logs import about
from llamafarm_ray.types import AUTO_MODEL

__all__ = ["FEEDBACK_ROUTE", "MODEL_ROUTES", "OPEN_ROUTES", "VECTOR_ROUTES", "Gateway", "Models"]

logger = logging.getLogger("ray.serve.llamafarm")  # below Ray Serve's own, so that it lands in the replica's log

MODEL_ROUTES = {"/v1/chat/completions", "/v1/completions", "/tokenize"}
"""The POST routes that name a model in their body, of a vLLM that writes text."""
VECTOR_ROUTES = {"/v1/embeddings", "/tokenize"}
"""Those of one that gives vectors."""
FEEDBACK_ROUTE = "/v1/feedback"
"""With these, ``GET /v1/models``, ``GET /v1/health`` and the open ones, these are all routes there are."""
OPEN_ROUTES = {("GET", "/health"), ("HEAD", "/health")}
"""The routes that ask for no key."""

_BYTES_PER_TOKEN = 4
"""A guess that only counts until the engine says how long the prompt was."""


class Models(Protocol):
    """Interface of the replica that the gateway needs."""

    async def find(self, model: str, caller: Caller | None = None) -> Target:
        """Return the version that a request means; raises where nothing of that name is served.

        Args:
            model: name in the request's body; without a caller the router's decision (:attr:`Target.routed`).
        """

    def use(self, target: Target) -> AbstractAsyncContextManager[None]:
        """Have a version ready to answer for the time of a block."""

    def names(self) -> list[str]:
        """The names a request may use."""

    async def describe(self, names: Iterable[str]) -> Mapping[str, Offer]:
        """Return the catalog entries of names; names that resolve to nothing are left out."""

    async def offers(self, caller: Caller, headers: Sequence[Header]) -> Sequence[Offer]:
        """Return the candidates for ``auto``: the base, and the version that each model's name means to a caller.

        Those of other applications that would let in a request with these headers have a ``base_url``.
        """


@dataclass(frozen=True, slots=True)
class _Request:
    """A request for a model's answer, before its body is read."""

    scope: Scope
    receive: Receive
    send: Send
    tenant: Tenant
    account: Account
    routed: str | None
    """Router's decision (:attr:`Target.routed`)."""
    span: Span
    """Span of the request."""


class Gateway:
    """See the module's text.

    Args:
        app: the engine's own HTTP app.
        models: resolves and loads.
        keys: says whose key a request carries.
        telemetry: hears of each request that the engine is done with; of ``/tokenize`` it does not.
        limits: limits of each key, and of requests in the engine at once.
        accounts: accounts of the keys; by default of this gateway alone.
        log_prompts: True to log prompts.
        routes: the engine's POST routes that name a model in their body.
        tracing: tracer of requests.
        journal: takes in requests and ratings for health and usage.
        quotas: tokens of namespaces; None: without limits.
        health: tells admins what the journals say of versions.
        token_bound: gives the fewest tokens of a text, where the engine's tokenizer has such a bound.
    """

    def __init__(
        self,
        app: App,
        models: Models,
        *,
        keys: Keys,
        feedback: FeedbackLog,
        telemetry: Telemetry,
        limits: Limits | None = None,
        accounts: Accounts | None = None,
        log_prompts: bool = False,
        routes: Collection[str] = MODEL_ROUTES,
        tracing: Tracing | None = None,
        journal: Journal | None = None,
        quotas: TokenQuotas | None = None,
        health: HealthReport | None = None,
        token_bound: TokenBound | None = None,
    ) -> None:
        self._app = app
        self._routes = frozenset(routes)
        self._models = models
        self._list = ModelList(models.names, models.describe)
        self._keys = keys
        self._feedback = feedback
        self._telemetry = telemetry
        self._tracing = tracing or Tracing()
        self._journal = journal
        self._quotas = quotas
        self._health = health
        self._limits = limits or Limits()
        self._token_bound = token_bound
        self._log_prompts = log_prompts
        self._accounts = Accounts(self._limits) if accounts is None else accounts
        self._turns = FairQueue(
            self._limits.running_requests,
            self._limits.queued_requests,
            self._limits.queue_timeout_s,
            telemetry.queued,
        )
        self._mirror = Mirror(app, models.use, telemetry.finished)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        match scope["type"]:
            case "http":
                try:
                    await self._handle(_at_root(scope), receive, send)
                except LlamaFarmError as error:
                    await refuse(send, error)
            case "lifespan":
                await self._app(scope, self._closing(receive), send)
            case "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 1008})

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        routed = check_headers(scope["headers"])
        method, path = scope["method"], scope["path"]
        if (method, path) in OPEN_ROUTES:
            await self._app(scope, receive, send)
            return
        tenant = self._keys.tenant(scope["headers"])
        with self._accounts.admitted(tenant.name) as account:
            plain = scope.get("raw_path") in {None, path.encode()}  # a listed path has one spelling
            if self._list.is_for(method, path):
                await self._list.answer(path, tenant, send)
            elif method == "POST" and (path in self._routes or path in AUTO_ROUTES) and plain:
                with self._tracing.request(scope) as span:
                    await self._generate(_Request(span.scope, receive, send, tenant, account, routed, span))
            elif method == "POST" and path == FEEDBACK_ROUTE and plain:
                await self._take_feedback(scope, receive, send, tenant)
            elif method == "GET" and path == HEALTH_ROUTE and plain and self._health is not None:
                await self._health.answer(scope["query_string"], tenant, send)
            else:
                raise _no_route(method, path)

    async def _generate(self, request: _Request) -> None:
        path, tenant = request.scope["path"], request.tenant
        body = await read_object(request.scope, request.receive, self._limits)
        check_shape(path, body)
        request.span.asked(body)
        bound_generation(path, body, self._limits)
        headers = request.scope["headers"]
        caller = caller_of(headers, body)
        query = request.scope["query_string"]
        if body["model"] == AUTO_MODEL:
            is_within = is_to_stay(query)
            offers = await self._models.offers(caller, headers)
            if is_within:
                offers = [offer for offer in offers if not offer.base_url]
            chosen = choose(offers, tenant, kind_of(path, body), headers)
            if chosen.base_url:
                request.span.sent_on(chosen.version)
                await send_on(request.send, path, chosen)
                return
            body["model"] = chosen.model
        else:
            refuse_limits(headers, query)
        if path not in self._routes:
            raise _no_route("POST", path)
        tenant.check(request.routed or body["model"])
        with _about_model():
            if request.routed is not None:
                target = await self._models.find(request.routed)
            else:
                target = await self._models.find(body["model"], caller)
        request.span.resolved(target)
        if target.shadow is not None:
            tenant.check(target.shadow.ref)
        body["model"] = target.engine_name
        if self._log_prompts:
            logger.info("%s asks %s: %s", tenant.name, target.ref, json.dumps(body.get("messages", body.get("prompt"))))
        await self._forward(request, body, target)

    async def _forward(self, request: _Request, body: dict[str, object], target: Target) -> None:
        """Have the engine answer when it is the request's turn, and settle what that cost."""
        hide = ask_for_usage(body)
        drawn = self._journal.drawn(request.scope["path"], body) if self._journal is not None else None
        exchange = ProxiedRequest(request.scope, request.receive, request.send, body, target)
        path, came = request.scope["path"], time.perf_counter()
        is_answer = path != "/tokenize"
        if self._quotas is not None and is_answer:
            self._quotas.check(target.ref)
        usage = Usage(exchange.size_bytes // _BYTES_PER_TOKEN if is_answer else 0)
        with about(request=exchange.request_id, version=target.ref), contextlib.closing(exchange):
            async with (
                self._turns.turn(request.tenant.name, usage.prompt_tokens or 1, exchange.gone) as turn,
                self._ready(target),
            ):
                request.span.began()
                await check_prompt(self._app, request.scope, body, self._limits, self._token_bound)
                watch = ResponseWatch(exchange.send, exchange.is_gone)
                waited_s = time.perf_counter() - came
                opening = self._journal.opening(watch, path, drawn) if self._journal is not None else None
                shadow = target.shadow and self._mirror.send(exchange.scope, body, target.shadow)
                try:
                    await exchange.run(self._app, UsageMeter(opening or watch, usage, hide=hide))
                finally:
                    turn.cost = usage.prompt_tokens + COMPLETION_WEIGHT * usage.completion_tokens
                    num_tokens = usage.prompt_tokens + usage.completion_tokens
                    request.account.settle(num_tokens)
                    if self._quotas is not None and is_answer:
                        self._quotas.count(target.ref, num_tokens)
                    finished = watch.finished(target, usage)
                    if shadow and finished.end is End.CANCELLED:
                        shadow.set()
                    if finished.end is End.FAILED:
                        logger.warning("A request failed with status %d.", finished.status)
                    if is_answer:
                        self._telemetry.finished(finished)
                        request.span.finished(finished)
                    if is_answer and self._journal is not None:
                        self._journal.add(
                            finished,
                            principal=request.tenant.name,
                            route=path,
                            body=body,
                            wait_s=waited_s,
                            opening=opening,
                        )

    @contextlib.asynccontextmanager
    async def _ready(self, target: Target) -> AsyncIterator[None]:
        """Have a version ready for a block; a client does not read which of the server's files is in the way."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._models.use(target))
            except (OSError, StorageError, IntegrityError) as error:
                logger.exception("%s can't be loaded", target.ref)
                raise DeploymentError(
                    f"{target.ref} can't be loaded at the moment.", hint="The server's log says why; ask who runs it."
                ) from error
            yield

    async def _take_feedback(self, scope: Scope, receive: Receive, send: Send, tenant: Tenant) -> None:
        said = FeedbackRequest.of(await read_object(scope, receive, self._limits))
        tenant.check(said.model)
        with _about_model():
            target = await self._models.find(said.model, NOBODY)
        record = feedback_record(said, target, tenant.name)
        try:
            await self._feedback.add(record)
        except StorageError as error:
            logger.exception("Feedback can't be kept")
            raise StorageError("The feedback can't be kept at the moment.", hint="Send it again later.") from error
        if self._journal is not None:
            self._journal.rated(target.ref, said.score)
        kept = {name: record[name] for name in ("id", "version", "digest")}
        await answer(send, 201, {"object": "feedback", **kept})

    def _closing(self, receive: Receive) -> Receive:
        async def closing() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self._feedback.close()
                await self._tracing.close()
                if self._journal is not None:
                    await self._journal.write()
            return message

        return closing


@contextlib.contextmanager
def _about_model() -> Iterator[None]:
    """Say with OpenAI's code that the model is what was not found."""
    try:
        yield
    except NotFoundError as error:
        raise ModelNotFoundError(error.message, hint=error.hint) from error
    except InputError as error:
        raise FieldError(error.message, param="model", hint=error.hint) from error


def _no_route(method: str, path: str) -> NotFoundError:
    return NotFoundError(f"There is no route {method[:20]} {path[:120]!r}.")


def _at_root(scope: Scope) -> Scope:
    """The request as an application without a route prefix gets it: Serve leaves the prefix in the path."""
    prefix, path, raw_path = scope.get("root_path", ""), scope["path"], scope.get("raw_path")
    if not prefix or not path.startswith(f"{prefix}/"):
        return scope
    if raw_path is not None and raw_path.startswith(prefix.encode()):
        raw_path = raw_path[len(prefix.encode()) :]
    return {**scope, "root_path": "", "path": path[len(prefix) :], "raw_path": raw_path}
