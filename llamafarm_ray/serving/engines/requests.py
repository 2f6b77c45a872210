"""Requests in OpenAI's shape, with vLLM's fields for sampling and tokens, read strictly.

https://platform.openai.com/docs/api-reference and https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html.
A field that would change the answer and that no engine here heeds is refused, never passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from llamafarm_ray.serving.http.errors import FieldError

__all__ = [
    "ChatRequest",
    "CompletionRequest",
    "EmbeddingRequest",
    "Generation",
    "TokenizeRequest",
    "read_request",
]

_TOLD = frozenset({"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"})
"""Fields that tell of the caller, and change no answer."""
_NEUTRAL: Mapping[str, object] = {
    "best_of": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "repetition_penalty": 1,
    "min_p": 0,
    "length_penalty": 1,
    "use_beam_search": False,
    "logit_bias": {},
    "tools": [],
    "tool_choice": "none",
    "response_format": {"type": "text"},
    "suffix": "",
    "skip_special_tokens": True,
    "spaces_between_special_tokens": True,
    "parallel_tool_calls": True,
    "chat_template_kwargs": {},
    "continue_final_message": False,
}
"""Values of fields that are not heeded which ask for nothing."""
_NO_WORDS_OF_A_TURN = frozenset({"id", "name", "refusal", "annotations"})
"""Fields of a turn that clients send back with an answer, and that are no part of its text."""
_MAX_STOPS = 16


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


StopTexts = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=1024)], ...],
    BeforeValidator(_as_tuple),
    Field(max_length=_MAX_STOPS),
]
TokenIds = list[Annotated[int, Field(ge=0)]]


class _Request(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="allow", allow_inf_nan=False)

    model: str


class StreamOptions(BaseModel):
    """Options of a stream."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    include_usage: bool = False


class Generation(_Request):
    """Fields shared by chat and plain completions; names and meanings as in ``SamplingParams``."""

    max_tokens: int | None = Field(default=None, ge=0)
    n: int = Field(default=1, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=100)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: StopTexts | None = None
    stop_token_ids: TokenIds | None = None
    ignore_eos: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None

    @property
    def wants_usage(self) -> bool:
        """True if a stream ends with its usage."""
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(Generation):
    """``POST /v1/completions``."""

    prompt: str | TokenIds | list[str] | list[TokenIds]
    echo: bool = False
    logprobs: int | None = Field(default=None, ge=0, le=20)


class TextPart(BaseModel):
    """A piece of a message."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """A turn of a chat: plain text, or OpenAI's list of parts, which must be text."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    role: str
    content: str | list[TextPart] | None = None

    @model_validator(mode="after")
    def _check_heeded(self) -> Self:
        """Refuse a turn with more than its text, such as calls of tools: the template would not get them."""
        lost = [name for name, value in (self.model_extra or {}).items() if value and name not in _NO_WORDS_OF_A_TURN]
        if lost:
            raise ValueError(f"{', '.join(sorted(lost))} of a message is not done by this model's engine")
        return self

    def for_template(self) -> dict[str, Any]:
        """The turn as chat templates take it."""
        parts = self.content or ""
        text = parts if isinstance(parts, str) else "".join(part.text for part in parts)
        return {"role": self.role, "content": text}


class ChatRequest(Generation):
    """``POST /v1/chat/completions``."""

    messages: list[ChatMessage] = Field(min_length=1)
    add_generation_prompt: bool = True
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=20)


class TokenizeRequest(_Request):
    """``POST /tokenize``, vLLM's: of a text, or of a chat."""

    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    return_token_strs: bool = False


class EmbeddingRequest(_Request):
    """``POST /v1/embeddings``."""

    input: str | TokenIds | list[str] | list[TokenIds]
    encoding_format: Literal["float", "base64"] = "float"
    max_tokens: int | None = Field(default=None, description="The gateway's bound on answers; a vector has no length.")


_R = TypeVar("_R", bound=_Request)


def read_request(kind: type[_R], body: Mapping[str, object]) -> _R:
    """A request of that kind.

    Fields that are null count as absent, as OpenAI's clients mean them.

    Raises:
        FieldError: a field is missing, wrong, or asks for an unsupported feature; the message lists all of them.
    """
    try:
        request = kind.model_validate({name: value for name, value in body.items() if value is not None})
    except ValidationError as error:
        wrong = sorted({f"{'.'.join(map(str, one['loc'][:1]))}: {one['msg']}" for one in error.errors()})
        param = wrong[0].partition(":")[0]
        raise FieldError(f"The request can't be read: {'; '.join(wrong)}.", param=param) from None
    unheeded = sorted(
        name
        for name, value in (request.model_extra or {}).items()
        if name not in _TOLD and (name not in _NEUTRAL or _NEUTRAL[name] != value)
    )
    if unheeded:
        raise FieldError(
            f"{', '.join(unheeded)}: not done by this model's engine.",
            param=unheeded[0],
            hint="Leave it out, or ask a model that vLLM serves.",
        )
    return request
