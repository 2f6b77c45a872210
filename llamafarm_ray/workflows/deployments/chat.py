"""Ask a deployed model, through the `openai` client as any application would."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import openai
from openai.types.chat import ChatCompletionMessageParam

from llamafarm_ray.errors import AccessDeniedError, DeploymentError, InputError, NotFoundError, UserError

__all__ = ["Answer", "ask", "stream"]


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, and the version that gave it (``name:version#digest``; the base's name for the base)."""

    text: str
    model: str
    headers: dict[str, str] = field(default_factory=dict)


def ask(
    url: str,
    model: str,
    question: str,
    *,
    max_tokens: int = 64,
    temperature: float = 0.0,
    key: str | None = None,
    user: str | None = None,
) -> Answer:
    """One question, one answer.

    Args:
        url: the OpenAI-compatible root, such as ``http://127.0.0.1:8000/v1``.
        question: the user's message.
        max_tokens: the answer's length at most.
        temperature: 0 is greedy: the same question, the same answer.
        key: API key, if the endpoint asks for one.
        user: user of the request, for a rollout that sends all requests of a user to the same version.

    Raises:
        NotFoundError: the endpoint does not know the model.
        AccessDeniedError: it asks for another key, or the key may not use the model.
        InputError: nothing answers at ``url``.
        DeploymentError: the endpoint fails.
    """
    with _errors(url), _client(url, key) as client:
        response = client.chat.completions.with_raw_response.create(
            model=model,
            messages=[{"role": "user", "content": question}],
            max_tokens=max_tokens,
            temperature=temperature,
            user=openai.omit if user is None else user,
        )
        completion = response.parse()
    told = {key: value for key, value in response.headers.items() if key.startswith("x-llamafarm-")}
    return Answer((completion.choices[0].message.content or "").strip(), completion.model, told)


def stream(
    url: str,
    model: str,
    messages: Iterable[ChatCompletionMessageParam],
    *,
    max_tokens: int = 256,
    temperature: float = 0.0,
    key: str | None = None,
) -> Iterator[str]:
    """The answer to a conversation, piece by piece; raises as :func:`ask` does."""
    with _errors(url), _client(url, key) as client:
        pieces = client.chat.completions.create(
            model=model, messages=messages, max_tokens=max_tokens, temperature=temperature, stream=True
        )
        for piece in pieces:
            if piece.choices and piece.choices[0].delta.content:
                yield piece.choices[0].delta.content


def _client(url: str, key: str | None) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key=key or "none", max_retries=0, timeout=120.0)


@contextmanager
def _errors(url: str) -> Iterator[None]:
    """Raise the client's errors as this package's."""
    try:
        yield
    except openai.NotFoundError as error:
        raise NotFoundError(_message(error)) from None
    except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
        raise AccessDeniedError(_message(error)) from None
    except openai.BadRequestError as error:
        raise UserError(_message(error)) from None
    except openai.APIConnectionError:
        raise InputError(
            f"Nothing answers at {url}.", hint="Is it deployed? `llamafarm models deploy` does that."
        ) from None
    except openai.APIStatusError as error:
        raise DeploymentError(f"{url} answered {error.status_code}: {_message(error)}") from None


def _message(error: openai.APIStatusError) -> str:
    body = error.body
    return str(body["message"]) if isinstance(body, dict) and "message" in body else error.message
