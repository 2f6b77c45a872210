"""New examples, paraphrases and translations by a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llamafarm_ray.data.expansion.parents import Row, question_and_answer
from llamafarm_ray.data.generation.cluster import VllmPlan
from llamafarm_ray.data.generation.endpoint import EndpointPlan
from llamafarm_ray.data.generation.endpoint.answers import BadAnswerError, objects_in, text_of
from llamafarm_ray.data.generation.endpoint.asking import Asker
from llamafarm_ray.data.generation.endpoint.cache import AnswerCache
from llamafarm_ray.data.generation.endpoint.client import RefusedError
from llamafarm_ray.data.generation.endpoint.prompt import TEXT, response_format
from llamafarm_ray.data.generation.endpoint.requests import chat_request
from llamafarm_ray.data.rows import Provenance
from llamafarm_ray.types import DeviceUse

if TYPE_CHECKING:
    from llamafarm_ray.data.generation.cluster.asking import ClusterAsker

__all__ = ["PROMPT_VERSION", "SHOWN_EXAMPLES", "SYSTEM_PROMPTS", "ModelExpander"]

PROMPT_VERSION = "expansion-1"
_INVENT = """\
You write training data: new questions with short answers, in the language of the examples.

Rules:
- Every question differs in subject or kind from all that are listed: another fact, a comparison, a consequence, a \
case from somebody's life, an order of steps.
- Every question names its subject and never mentions a passage, a text or a list.
- Every answer stands alone and says only what the passage says; without a passage, only what the examples say.
Answer with JSON only: {"items": [{"question": "...", "answer": "..."}]}"""
_PARAPHRASE = """\
You put questions in other words. The meaning, all names and all numbers stay; the language stays.
Answer with JSON only: {"items": [{"text": "..."}]}"""
_TRANSLATE = """\
You translate. Names and numbers stay as they are.
Answer with JSON only: {"items": [{"text": "..."}]}"""
SYSTEM_PROMPTS: Mapping[str, tuple[str, ...]] = {
    "synthetic_generation": (_INVENT,),
    "paraphrase": (_PARAPHRASE,),
    "back_translation": (_TRANSLATE, _TRANSLATE),
}
"""System turns of the requests for invented examples of a passage, and for each way to change a question."""
SHOWN_EXAMPLES = 12
"""Most examples in a request for new ones."""


class ModelExpander:
    """Asks a model for new examples and wordings.

    Args:
        plan: an endpoint's, with model, server and limits, or vLLM's; its answers are stored with those for pairs.
        on_use: called with the use of devices by vLLM.
    """

    def __init__(self, plan: EndpointPlan | VllmPlan, on_use: Callable[[DeviceUse], None] = lambda _use: None) -> None:
        self._asking = plan.asking
        self._asker = _asker(plan, on_use)
        self.provenance = Provenance(plan.name, plan.asking.model, PROMPT_VERSION, plan.digest)

    def invent(self, groups: Sequence[Sequence[Row]], count: int) -> list[list[tuple[str, str]] | str]:
        """Return new questions and answers for each group of rows, or the reason why there are none.

        Args:
            groups: rows of one passage each, or examples without a passage.
            count: number of new ones to ask for in each.
        """

        def prompt(rows: Sequence[Row]) -> str:
            listed = [question_and_answer(row) for row in rows[:SHOWN_EXAMPLES]]
            examples = "\n".join(f"- {question}\n  {answer}" for question, answer in listed)
            passage = rows[0]["passage"]
            where = f"\n\nPassage:\n{passage}" if passage else ""
            return f"Write {count} new ones.\n\nExamples that exist:\n{examples}{where}"

        fields = {"question": TEXT, "answer": TEXT}
        prompts = [(_INVENT, prompt(rows)) for rows in groups]
        return self._ask(prompts, fields, lambda item: (text_of(item, "question"), text_of(item, "answer")))

    def paraphrase(self, questions: Sequence[str]) -> list[str | None]:
        """Return each question in other words; None for one that could not be had."""
        return self._texts([(_PARAPHRASE, f"Put this question in other words:\n\n{text}") for text in questions])

    def translate_back(self, questions: Sequence[str], language: str, original: str) -> list[str | None]:
        """Return each question translated to a language and back; None for one that could not be had.

        Args:
            language: English name of the language in between.
        """
        there = self._texts([(_TRANSLATE, f"Translate to {language}:\n\n{text}") for text in questions])
        known = [text for text in there if text]
        back = iter(self._texts([(_TRANSLATE, f"Translate to {original}:\n\n{text}") for text in known]))
        return [next(back) if text else None for text in there]

    def _texts(self, prompts: Sequence[tuple[str, str]]) -> list[str | None]:
        found = self._ask(prompts, {"text": TEXT}, lambda item: text_of(item, "text"))
        return [texts[0] if isinstance(texts, list) and texts else None for texts in found]

    def _ask(
        self,
        prompts: Sequence[tuple[str, str]],
        fields: Mapping[str, object],
        read: Callable[[Mapping[str, object]], object],
    ) -> list[Any]:
        asking = self._asking
        requests = [
            chat_request(
                asking.model,
                [{"role": "system", "content": system}, {"role": "user", "content": user}],
                temperature=asking.temperature,
                max_output_tokens=asking.max_output_tokens,
                answer_format=response_format("items", fields),
            )
            for system, user in prompts
        ]
        readers = [lambda text: [read(item) for item in objects_in(text, "items")]] * len(requests)
        found: list[object] = []
        for answer in self._asker.ask_all(requests, readers) if requests else ():
            if isinstance(answer, BadAnswerError):
                found.append("answer is not the JSON that was asked for")
            elif isinstance(answer, RefusedError):
                found.append("request refused by the model")
            else:
                found.append(answer)
        return found


def _asker(plan: EndpointPlan | VllmPlan, on_use: Callable[[DeviceUse], None]) -> Asker | ClusterAsker:
    if isinstance(plan, EndpointPlan):
        return Asker(plan.terms(), AnswerCache(plan.cache))
    from llamafarm_ray.data.generation.cluster.asking import ClusterAsker  # imports transformers

    return ClusterAsker(plan, on_use)
