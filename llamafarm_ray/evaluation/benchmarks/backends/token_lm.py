"""A token engine as a model of lm-eval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from llamafarm_ray.errors import InputError, UnsupportedError
from llamafarm_ray.evaluation.benchmarks.backends import RequestKind
from llamafarm_ray.evaluation.benchmarks.backends.asking import ask_lm
from llamafarm_ray.evaluation.benchmarks.prefix import fix_prefix
from llamafarm_ray.evaluation.engines.opening import open_tokens
from llamafarm_ray.evaluation.engines.tokens import Ends, ScoredText, TokenEngine
from llamafarm_ray.models.tokenizer import quiet_libraries

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

__all__ = ["TokenAnswerer", "open_endpoint", "open_gguf"]

_MAX_NEW_TOKENS = 256
"""lm-eval's own default for tasks that don't say."""


class TokenAnswerer:
    """An `Answerer` on a token engine."""

    def __init__(self, engine: TokenEngine) -> None:
        self._lm = _TokenLM(engine)

    @property
    def chat_template(self) -> str:
        """See `Answerer.chat_template`."""
        return str(self._lm.tokenizer.chat_template or "")

    @property
    def precision(self) -> str:
        """See `Answerer.precision`: such engines don't tell."""
        return ""

    def render(self, chat: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str:
        """See `Answerer.render`."""
        return self._lm.apply_chat_template(list(chat), add_generation_prompt=add_generation_prompt)

    def answer(
        self, kind: RequestKind, requests: Sequence[Sequence[object]], *, with_adapter: bool, has_template: bool
    ) -> list[object]:
        """See `Answerer.answer`."""
        fix_prefix(self._lm, self._lm.tokenizer, has_template=has_template)
        self._lm.with_adapter = with_adapter
        return ask_lm(self._lm, kind, requests)


def open_endpoint(**options: object) -> TokenAnswerer:
    """Return an `Answerer` that asks an endpoint."""
    return TokenAnswerer(_opened("endpoint", options))


def open_gguf(**options: object) -> TokenAnswerer:
    """Return an `Answerer` of a GGUF file."""
    return TokenAnswerer(_opened("gguf", options))


def _opened(backend: str, options: Mapping[str, object]) -> TokenEngine:
    quiet_libraries()
    return open_tokens(backend, options)


class _TokenLM(TemplateLM):  # type: ignore[misc]  # lm-eval has no types
    """A model of lm-eval on a `TokenEngine`: texts become tokens as in lm-eval's HFLM."""

    def __init__(self, engine: TokenEngine) -> None:
        super().__init__()
        self.tokenizer = engine.tokenizer
        self.add_bos_token = False
        self.with_adapter = True
        self._engine = engine

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: object) -> list[int]:
        ids = list(self.tokenizer(string, add_special_tokens=False)["input_ids"])
        wants_bos = self.add_bos_token if add_special_tokens is None else add_special_tokens
        bos = self.tokenizer.bos_token_id
        return [bos, *ids] if wants_bos and bos is not None and ids[:1] != [bos] else ids

    def apply_chat_template(self, chat_history: list[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        final = {} if add_generation_prompt else {"continue_final_message": True}
        options = {"tokenize": False, "add_generation_prompt": add_generation_prompt, **final}
        return str(self.tokenizer.apply_chat_template(chat_history, **options))

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[object, list[int], list[int]]], **_: object
    ) -> list[tuple[float, bool]]:
        limit = self._engine.max_length
        texts = []
        for _text, context, continuation in requests:
            tokens = (*context, *continuation)[-limit:]
            texts.append(ScoredText(tokens, max(1, len(tokens) - len(continuation))))
        told = self._engine.score(texts, with_adapter=self.with_adapter)
        return [(one.total, one.is_greedy) for one in told]

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        del disable_tqdm
        found = []
        for request in requests:
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self._engine.max_length - 1,
                context_len=1,
            )
            scored = self._loglikelihood_tokens([(None, *make_disjoint_window(window)) for window in windows])
            found.append(sum(logprob for logprob, _ in scored))
        return found

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        del disable_tqdm
        found: dict[int, str] = {}
        groups: dict[tuple[int, tuple[str, ...]], list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(self._limits(request.args[1]), []).append(number)
        for (max_tokens, stop), members in groups.items():
            room = self._engine.max_length - max_tokens
            prompts = [self.tok_encode(requests[number].args[0])[-room:] for number in members]
            written = self._engine.write(prompts, Ends(max_tokens, stop), with_adapter=self.with_adapter)
            for number, one in zip(members, written, strict=True):
                found[number] = postprocess_generated_text(one.text, list(stop), None)
        return [found[number] for number in range(len(requests))]

    def _limits(self, asked: Mapping[str, object]) -> tuple[int, tuple[str, ...]]:
        """Return the longest answer in tokens, and the texts that end it."""
        options = normalize_gen_kwargs(asked, _MAX_NEW_TOKENS)
        if options.get("do_sample"):
            raise UnsupportedError(
                "The task draws its answers, and this backend gives the most probable ones alone.",
                hint="Use backend transformers.",
            )
        stop = handle_stop_sequences(options.get("until"), eos=self.tokenizer.decode([self.eot_token_id]))
        max_tokens = int(options["max_gen_toks"])
        if max_tokens >= self._engine.max_length:
            raise InputError(
                f"The task asks for answers of {max_tokens} tokens, and the model reads {self._engine.max_length}.",
                hint="Ask another task, or a model with a longer context.",
            )
        return max_tokens, tuple(stop)
