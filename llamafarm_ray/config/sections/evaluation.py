"""Measurements of a trained model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field

from llamafarm_ray.config.sections.base import Mistake, Names, Section, Unused, as_tuple, section
from llamafarm_ray.config.sections.generation import Server
from llamafarm_ray.config.sections.retriever import Retriever

__all__ = ["RISKS", "Backend", "Evaluation", "EvaluationEndpoint", "Garak", "Judge", "JudgeMethod", "Metric", "Risk"]

Metric = Literal[
    "perplexity",
    "byte_perplexity",
    "bleu",
    "chrf",
    "rouge",
    "exact_match",
    "f1",
    "contains",
    "numeric_match",
    "refusal_rate",
    "toxicity",
    "length",
    "json_valid",
    "tool_call_accuracy",
    "calibration_error",
    "latency_p95",
    "tokens_per_second",
    "rag_accuracy",
]

Risk = Literal["robustness", "fairness", "memorization", "prompt_injection", "jailbreaks", "over_refusal"]
RISKS: tuple[Risk, ...] = get_args(Risk)
"""All risks that can be measured."""

Backend = Literal["transformers", "vllm", "gguf", "endpoint"]
"""Engines that models are asked on."""

JudgeMethod = Literal["pairwise", "rubric"]

Probe = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)?$")]
"""A module of garak's probes, or one with a class."""


def _check_test_set(value: str) -> str:
    if re.fullmatch(r"holdout_[^./\\]*", value) and not re.fullmatch(r"holdout_0?[1-9]\d?_percent", value):
        raise ValueError("must be a path, or a held-out share such as holdout_20_percent (1 to 99)")
    return value


class Judge(Section):
    """A model that compares and rates answers."""

    model: str | None = Field(
        default=None, min_length=1, description="Model of an OpenAI-compatible endpoint; unset: nothing is judged."
    )
    methods: Annotated[tuple[JudgeMethod, ...], BeforeValidator(as_tuple), Field(min_length=1)] = Field(
        default=("pairwise", "rubric"),
        description="'pairwise' compares with the baseline in both orders, 'rubric' rates from 1 to 5.",
    )
    criteria: str = Field(
        default="The answer is correct, complete and to the point.",
        min_length=1,
        description="Definition of a good answer, for the judge.",
    )
    endpoint: Server = section(Server, "The judge's server. Its temperature is always 0.")

    def unused(self) -> Mapping[str, Unused]:
        """Nothing is judged without a model."""
        if self.model is not None:
            return {}
        return dict.fromkeys(
            ("methods", "criteria", "endpoint"), Unused("model", "has no effect while {1} is not set.")
        )


class EvaluationEndpoint(Section):
    """A running endpoint with OpenAI's completions and log-probabilities; garak needs its chat completions."""

    base_url: str | None = Field(
        default=None, min_length=1, pattern=r"^https?://", description="Address up to '/v1'; unset: no endpoint."
    )
    model: str | None = Field(
        default=None, min_length=1, description="Name of the model there; unset: the reference of the version."
    )
    api_key_env: str = Field(
        default="OPENAI_API_KEY", min_length=1, description="Environment variable that holds the key."
    )
    concurrency: int = Field(default=8, ge=1, le=1024, description="Most requests at once.")
    timeout_s: float = Field(default=120.0, gt=0, le=3600, description="Longest wait for one answer.")
    max_attempts: int = Field(
        default=5, ge=1, le=100, description="Attempts of a request that fails for a while: 429, 5xx, time-outs."
    )

    def unused(self) -> Mapping[str, Unused]:
        """Nothing is asked there without an address."""
        if self.base_url is not None:
            return {}
        names = ("model", "api_key_env", "concurrency", "timeout_s", "max_attempts")
        return dict.fromkeys(names, Unused("base_url", "has no effect while {1} is not set."))


class Garak(Section):
    """Probes of garak, a scanner of language models' weaknesses, against the running endpoint."""

    python: str | None = Field(
        default=None,
        min_length=1,
        description="Python of the environment that garak is installed in; unset: garak does not run.",
    )
    probes: Annotated[tuple[Probe, ...], BeforeValidator(as_tuple), Field(min_length=1)] = Field(
        default=("dan", "encoding.InjectBase64", "promptinject", "suffix"),
        description="garak's probes: modules, or modules with a class.",
    )
    max_prompts: int = Field(default=32, ge=1, le=100_000, description="Most prompts of a probe.")
    generations: int = Field(default=1, ge=1, le=100, description="Answers to each prompt.")
    temperature: float = Field(default=0.0, ge=0, le=2, description="Sampling temperature of the answers.")
    max_new_tokens: int = Field(default=150, ge=1, le=1048576, description="Longest answer in tokens.")
    time_limit_s: float = Field(
        default=3600.0, gt=0, description="For all probes together; those that are finished by then count."
    )

    def unused(self) -> Mapping[str, Unused]:
        """Nothing is probed without garak."""
        if self.python is not None:
            return {}
        names = ("probes", "max_prompts", "generations", "temperature", "max_new_tokens", "time_limit_s")
        return dict.fromkeys(names, Unused("python", "has no effect while {1} is not set."))

    def mistakes(self) -> Iterator[Mistake]:
        """Several answers of temperature 0 are one."""
        if self.generations > 1 and self.temperature == 0:
            yield Mistake(("generations", "temperature"), "is above 1, and all answers are equal while {1} is 0.")


class Evaluation(Section):
    """The metrics and tests of a trained model."""

    metrics: Annotated[tuple[Metric, ...], BeforeValidator(as_tuple)] = Field(
        default=("perplexity", "bleu", "rouge"), description="Metrics to measure on the test examples."
    )
    benchmarks: Names = Field(default=(), description="Public benchmarks to run, e.g. hellaswag.")
    benchmark_data: str | None = Field(
        default=None,
        min_length=1,
        description="Folder with the benchmarks' data, or a registered set; unset: it comes from the hub.",
    )
    num_fewshot: int | None = Field(
        default=None, ge=0, le=100, description="Examples before a benchmark's question; unset: each task's own number."
    )
    benchmark_chat_template: bool = Field(
        default=False, description="Ask benchmarks through the model's chat template."
    )
    backend: Backend | None = Field(
        default=None,
        description="Engine that the model is asked on; unset: the endpoint where one is set, gguf for GGUF files, "
        "else transformers.",
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="Ray workers that benchmarks and held-out examples are shared among; scores stay the same.",
    )
    endpoint: EvaluationEndpoint = section(
        EvaluationEndpoint, "A running endpoint that is asked instead of the model's files."
    )
    custom_evaluations: Names = Field(
        default=(),
        description="Evaluations of your own: names in ./evaluations, files with questions or descriptions, or "
        "registered sets.",
    )
    test_set: Annotated[str, Field(min_length=1), AfterValidator(_check_test_set)] | None = Field(
        default=None,
        description="Examples to test with: a dataset's path, or 'holdout_20_percent' for the held-out split of that "
        "share; unset: the held-out split.",
    )
    questions: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="JSONL file or registered set of questions with answers, to ask with and without passages.",
    )
    corpus: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="Documents that passages are retrieved from for the questions."
    )
    retriever: Retriever = section(Retriever, "A retriever or an embedding model of your own for the questions.")
    forgetting: bool = Field(
        default=True, description="Measure fixed general texts before and after training, where there is a baseline."
    )
    decontaminate: bool = Field(
        default=True,
        description="Leave out questions that the training data hold; sets that must pass keep theirs.",
    )
    risk: Annotated[tuple[Risk, ...], BeforeValidator(as_tuple)] = Field(
        default=(), description="Risks to measure, with prompts that provoke a failure."
    )
    canaries: str | None = Field(
        default=None,
        min_length=1,
        description="JSONL file of secrets planted in the training data: prompt, answer and secret.",
    )
    garak: Garak = section(Garak, "Probes of garak against the running endpoint.")
    judge: Judge = section(Judge, "A model that judges answers to questions and custom evaluations.")
    retrieved_passages: int = Field(default=3, ge=1, le=100, description="Passages to retrieve for a question.")
    retrieved_sentences: Annotated[int, Field(ge=1, le=1000)] | Literal["auto"] | None = Field(
        default="auto",
        description="Sentences of the retrieved passages to show, those that fit the question best; null: whole "
        "passages. auto: one if the base model ranks them, two if vectors do, which suits models below a billion "
        "parameters; larger ones read more.",
    )
    sentence_ranker: Literal["auto", "base_model", "vectors"] = Field(
        default="auto",
        description="Ranker of the sentences: the base model, by how likely the question is after each, or vectors of "
        "words. auto: the base model if it is in a folder and has 100 MB to 1.5 GB of weights, or more where there "
        "is a GPU.",
    )
    max_new_tokens: int = Field(default=64, ge=1, le=1048576, description="Longest generated answer in tokens.")
    max_examples: int | None = Field(
        default=None, ge=1, description="Test with the first so many examples; unset: with all."
    )

    def unused(self) -> Mapping[str, Unused]:
        """Canaries are looked for among what was memorized."""
        if "memorization" in self.risk:
            return {}
        return {"canaries": Unused("risk", "has no effect while {1} does not name memorization.")}

    @property
    def holdout_ratio(self) -> float | None:
        """The share that ``test_set`` holds out: 0.2 for ``holdout_20_percent``; None if it says no share."""
        return holdout_ratio(self.test_set)


def holdout_ratio(test_set: object) -> float | None:
    """The share of a ``holdout_NN_percent``; None for anything else."""
    match = re.fullmatch(r"holdout_(0?[1-9]\d?)_percent", test_set) if isinstance(test_set, str) else None
    return int(match[1]) / 100 if match else None
