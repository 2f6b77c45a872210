"""HTTP app of an engine: OpenAI's routes over any :class:`Engine`, behind the same gateway as vLLM's.

The gateway (:mod:`llamafarm_ray.serving.gateway.gateway`) has checked each request: its body is JSON of a bounded size,
and ``model`` is the engine name of a loaded version.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import json
import logging
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from llamafarm_ray.errors import DeploymentError, InputError, LlamaFarmError, NotFoundError, UserError
from llamafarm_ray.models.chat import end_of_turn_ids, render_chat
from llamafarm_ray.models.token_bound import token_bound
from llamafarm_ray.serving.engines.base import Engine, SamplingParams
from llamafarm_ray.serving.engines.detokenizer import Detokenizer
from llamafarm_ray.serving.engines.in_process import check_least
from llamafarm_ray.serving.engines.requests import (
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    Generation,
    TokenizeRequest,
    read_request,
)
from llamafarm_ray.serving.engines.responses import ChatShape, Choice, CompletionShape, Piece, Shape, embeddings
from llamafarm_ray.serving.http.asgi import Message, Receive, Scope, Send, answer, error_type, refuse
from llamafarm_ray.serving.http.errors import ContextLengthError, param_of

__all__ = ["ROUTES", "EngineApp"]

logger = logging.getLogger("ray.serve.llamafarm")

T = TypeVar("T")

ROUTES = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize"})
"""The POST routes, all of which name a model in their body; beside them there is ``/health``."""

_COMPLETION_TOKENS = 16
"""OpenAI's and vLLM's bound on a completion that names none."""
_CHAT_TOKENS = 1024
"""The bound on a chat's answer that names none, of a model without a bound of its own."""
_SHOWN = 200
_PROMPTS = {"/v1/chat/completions": "messages", "/v1/completions": "prompt", "/v1/embeddings": "input"}
"""Each route's field of the prompt."""
_DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class _Task:
    """Request for text, ready for the engine.

    Attributes:
        prompts: the token ids of each prompt.
        shape: shape of the answer.
        echoes: text before each prompt's answer.
    """

    request: Generation
    prompts: list[list[int]]
    params: SamplingParams
    shape: Shape
    echoes: list[str]


class EngineApp:
    """See the module's text: an ASGI app (https://asgi.readthedocs.io)."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        engine.tokenizer("")  # takes back the padding that its files may ask for, before threads share it
        self.token_bound = token_bound(engine.tokenizer)
        self._routes = {
            "/v1/chat/completions": self._chat,
            "/v1/completions": self._complete,
            "/v1/embeddings": self._embed,
            "/tokenize": self._tokenize,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        route = (scope["method"], scope["path"])
        if route in {("GET", "/health"), ("HEAD", "/health")}:
            await answer(send, 200, {})
        elif route[0] == "POST" and route[1] in self._routes:
            body = json.loads(await _read(receive))
            reply = _Reply(send, dict(scope["headers"]).get(b"x-request-id", b"0").decode("latin-1"))
            await _until_gone(
                receive, self._answer(self._routes[route[1]](body, reply), reply, _PROMPTS.get(route[1], ""))
            )
        else:
            await refuse(send, NotFoundError(f"There is no route {route[0][:20]} {route[1][:120]!r}."))

    async def _answer(self, answering: Coroutine[object, None, None], reply: _Reply, prompt: str) -> None:
        try:
            await answering
        except ContextLengthError as error:
            error.param = prompt
            await reply.refuse(error)
        except LlamaFarmError as error:
            await reply.refuse(error)
        except Exception:  # an engine may raise anything; the client gets an answer, and the log the error
            logger.exception("the engine failed at request %s", reply.request_id)
            await reply.refuse(DeploymentError("The model's engine failed.", hint="The replica's log says where."))

    async def _chat(self, body: dict[str, Any], reply: _Reply) -> None:
        request = read_request(ChatRequest, body)
        self._check_writes()
        longest = self._engine.max_model_len(request.model)
        prompt = await asyncio.to_thread(self._chat_ids, request.messages, request.add_generation_prompt, longest)
        room = max(1, longest - len(prompt)) if longest is not None else _CHAT_TOKENS
        asked = request.max_completion_tokens or request.max_tokens
        params = self._params(request, room if asked is None else asked, self._turn_ends)
        if request.logprobs:
            params = _with_logprobs(params, request.top_logprobs or 0, of_prompt=False)
        tokenizer = self._engine.tokenizer
        shape = ChatShape(tokenizer, reply.request_id, request.model, logprobs=request.logprobs)
        await self._generate(_Task(request, [prompt], params, shape, [""]), reply)

    async def _complete(self, body: dict[str, Any], reply: _Reply) -> None:
        request = read_request(CompletionRequest, body)
        self._check_writes()
        texts = _listed(request.prompt)
        prompts = await asyncio.to_thread(self._ids, texts, self._engine.max_model_len(request.model))
        params = self._params(request, _COMPLETION_TOKENS if request.max_tokens is None else request.max_tokens)
        if request.logprobs is not None:
            params = _with_logprobs(params, request.logprobs, of_prompt=request.echo)
        decode = self._engine.tokenizer.decode
        echoes = [(text if isinstance(text, str) else decode(text)) if request.echo else "" for text in texts]
        tokenizer, is_scored = self._engine.tokenizer, request.logprobs is not None
        shape = CompletionShape(tokenizer, reply.request_id, request.model, logprobs=is_scored)
        await self._generate(_Task(request, prompts, params, shape, echoes), reply)

    async def _embed(self, body: dict[str, Any], reply: _Reply) -> None:
        request = read_request(EmbeddingRequest, body)
        longest = self._engine.max_model_len(request.model)
        texts = await asyncio.to_thread(self._ids, _listed(request.input), longest)
        vectors = [await self._engine.embed(request.model, ids) for ids in texts]  # one at a time: others take turns
        is_base64 = request.encoding_format == "base64"
        await reply.whole(embeddings(request.model, vectors, sum(map(len, texts)), as_base64=is_base64))

    async def _tokenize(self, body: dict[str, Any], reply: _Reply) -> None:
        request = read_request(TokenizeRequest, body)
        tokenizer = self._engine.tokenizer
        if request.messages is not None:
            ids = await asyncio.to_thread(self._chat_ids, request.messages, request.add_generation_prompt)
        elif request.prompt is not None:
            options = {"add_special_tokens": request.add_special_tokens}
            ids = (await asyncio.to_thread(tokenizer, request.prompt, **options))["input_ids"]
        else:
            raise InputError("There is nothing to tokenise.", hint="Send 'prompt' or 'messages'.")
        texts = tokenizer.convert_ids_to_tokens(ids) if request.return_token_strs else None
        longest = self._engine.max_model_len(request.model)
        await reply.whole({"count": len(ids), "max_model_len": longest, "tokens": ids, "token_strs": texts})

    async def _generate(self, task: _Task, reply: _Reply) -> None:
        """Write all answers to a request, piece by piece or at once."""
        choices = [Choice(index) for index in range(len(task.prompts) * task.request.n)]
        num_prompt = sum(map(len, task.prompts))
        async with aclosing(_merged([self._pieces(task, choice.index) for choice in choices])) as pieces:
            async for index, piece in pieces:
                choice = choices[index]
                if task.request.stream and (piece.text or piece.finish_reason or task.shape.tells_logprobs):
                    await reply.event(task.shape.chunk(choice, piece))
                choice.add(piece)
        if not task.request.stream:
            await reply.whole(task.shape.whole(choices, num_prompt))
            return
        if task.request.wants_usage:
            await reply.event(task.shape.closing(choices, num_prompt))
        await reply.end()

    async def _pieces(self, task: _Task, index: int) -> AsyncGenerator[Piece, None]:
        """One answer: number ``index`` of the request, ``n`` of them for each prompt."""
        request, number = task.request, index // task.request.n
        prompt, text = task.prompts[number], task.echoes[number]
        params = _nth(task.params, index % request.n)
        letters = Detokenizer(self._engine.tokenizer, prompt, request.stop or ())
        async with aclosing(self._engine.generate(request.model, prompt, params)) as steps:
            async for step in steps:
                reason = step.finish_reason
                if step.token is not None and reason != "stop":  # a token that ends an answer is no text of it
                    text += letters.add(step.token.token_id)
                if letters.is_stopped:
                    reason = "stop"
                elif reason is not None:
                    text += letters.finish()
                tokens = (*step.prompt, *([step.token] if step.token is not None else ()))
                if tokens or reason is not None:
                    yield Piece(text, tokens, reason, num_tokens=int(step.token is not None))
                    text = ""
                if reason is not None:
                    return

    def _params(self, request: Generation, max_tokens: int, ends: Sequence[int] = ()) -> SamplingParams:
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=1.0 if request.temperature is None else request.temperature,
            top_p=1.0 if request.top_p is None else request.top_p,
            top_k=max(0, request.top_k or 0),
            seed=request.seed,
            stop_token_ids=(*(request.stop_token_ids or ()), *(() if request.ignore_eos else ends)),
            ignore_eos=request.ignore_eos,
        )

    @functools.cached_property
    def _turn_ends(self) -> Sequence[int]:
        """The tokens that end an assistant's turn, the same as in training and evaluation."""
        with suppress(UserError):  # a template that training can't take apart: the model's own end stands
            return end_of_turn_ids(self._engine.tokenizer)
        return ()

    def _chat_ids(self, messages: Sequence[ChatMessage], for_answer: bool, longest: int | None = None) -> list[int]:
        turns = [message.for_template() for message in messages]
        try:
            text = render_chat(self._engine.tokenizer, turns, for_answer=for_answer)
        except UserError as error:  # its message is for the model's owner: it has the folder and the client's roles
            if not self._engine.tokenizer.chat_template:
                raise InputError(
                    "The model has no chat template.", hint="Send a plain prompt to completions."
                ) from error
            why = f": {str(error.__cause__)[:_SHOWN]}" if error.__cause__ is not None else ""
            raise InputError(
                f"The model's chat template refuses these messages{why}.", hint="Send other roles, or a plain prompt."
            ) from error
        self._check_chars(text, longest)
        return list(self._engine.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _check_chars(self, text: str, longest: int | None) -> None:
        """Refuse a text that has too many characters for the model before it is tokenized, which may take minutes."""
        if self.token_bound is not None and longest is not None:
            check_least(self.token_bound.least(text), longest)

    def _ids(self, texts: Sequence[str | list[int]], longest: int | None) -> list[list[int]]:
        """The token ids of each text."""
        tokenizer = self._engine.tokenizer
        for text in texts:
            if isinstance(text, str):
                self._check_chars(text, longest)
        found = [list(tokenizer(text)["input_ids"]) if isinstance(text, str) else text for text in texts]
        if any(token >= len(tokenizer) for ids in found for token in ids):
            raise InputError(f"A token id is not below {len(tokenizer)}, the size of the vocabulary.")
        return found

    def _check_writes(self) -> None:
        if not self._engine.writes:
            raise InputError("This model gives vectors; it writes no text.", hint="Ask /v1/embeddings.")


class _Reply:
    """The way back to the client: a whole answer, or the events of a stream.

    Args:
        send: of the ASGI connection.
        request_id: end of the answer's ``id``.
    """

    def __init__(self, send: Send, request_id: str) -> None:
        self.request_id = request_id
        self._send = send
        self._is_streaming = False

    async def whole(self, body: dict[str, object]) -> None:
        """Send everything."""
        await answer(self._send, 200, body)

    async def event(self, body: dict[str, object]) -> None:
        """Send one event: https://html.spec.whatwg.org/multipage/server-sent-events.html."""
        if not self._is_streaming:
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
            self._is_streaming = True
        data = b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """End the stream."""
        await self._send({"type": "http.response.body", "body": _DONE})

    async def refuse(self, error: LlamaFarmError) -> None:
        """Send an error; in a stream that has begun, as vLLM does, as its last event."""
        if not self._is_streaming:
            await refuse(self._send, error)
            return
        told = {"message": str(error), "type": error_type(error.http_status), "code": error.code}
        await self.event({"error": {**told, "param": param_of(error)}})
        await self.end()


def _listed(given: str | list[int] | list[str] | list[list[int]]) -> list[str | list[int]]:
    """A list of texts, each a text or its token ids, whatever way they are given."""
    if isinstance(given, str):
        return [given]
    numbers = [one for one in given if isinstance(one, int)]
    return [numbers] if numbers else [one for one in given if not isinstance(one, int)]


def _with_logprobs(params: SamplingParams, num_top: int, *, of_prompt: bool) -> SamplingParams:
    return dataclasses.replace(params, logprobs=num_top, prompt_logprobs=num_top if of_prompt else None)


def _nth(params: SamplingParams, number: int) -> SamplingParams:
    """The parameters of one of several answers to a prompt: with a seed, each has its own."""
    if params.seed is None or number == 0:
        return params
    return dataclasses.replace(params, seed=params.seed + number)


async def _merged(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[tuple[int, T], None]:
    """Yield items of several streams as they come, each with the stream's number. The first error ends all."""
    queue: asyncio.Queue[tuple[int, T | Exception | None]] = asyncio.Queue()

    async def pump(index: int, stream: AsyncGenerator[T, None]) -> None:
        try:
            async with aclosing(stream):
                async for value in stream:
                    queue.put_nowait((index, value))
        except Exception as error:  # noqa: BLE001 - raised again below
            queue.put_nowait((index, error))
        else:
            queue.put_nowait((index, None))

    tasks = [asyncio.create_task(pump(index, stream)) for index, stream in enumerate(streams)]
    num_open = len(tasks)
    try:
        while num_open:
            index, value = await queue.get()
            if value is None:
                num_open -= 1
            elif isinstance(value, Exception):
                raise value
            else:
                yield index, value
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _read(receive: Receive) -> bytes:
    data = bytearray()
    while True:
        message = await receive()
        data += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(data)


async def _until_gone(receive: Receive, answering: Coroutine[object, None, None]) -> None:
    """Answer, unless the client goes away first: nobody is left to read it then."""
    tasks = [asyncio.create_task(answering), asyncio.create_task(_gone(receive))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _gone(receive: Receive) -> Message:
    while (message := await receive())["type"] != "http.disconnect":
        pass
    return message


async def _live(receive: Receive, send: Send) -> None:
    for phase in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{phase}.complete"})
