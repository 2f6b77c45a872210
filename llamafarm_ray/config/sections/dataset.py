"""Sources of examples and their preparation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from llamafarm_ray.config.sections.base import Mistake, Section, as_tuple, section
from llamafarm_ray.config.sections.expansion import Augmentation, SyntheticGeneration
from llamafarm_ray.config.sections.generation import QaGeneration
from llamafarm_ray.config.sections.quality import QualityControl
from llamafarm_ray.config.values import FrozenMapping

__all__ = [
    "DatasetConfig",
    "DatasetFormat",
    "DatasetValidation",
    "HoldOut",
    "Preprocessing",
    "RowFormat",
    "Source",
    "SourceType",
]

SourceType = Literal["rag_documents", "conversation_logs", "domain_corpus", "synthetic", "human_feedback"]
RowFormat = Literal["alpaca", "sharegpt", "chatml", "prompt_completion", "text", "preference", "kto"]
DatasetFormat = Literal[
    "alpaca", "sharegpt", "chatml", "prompt_completion", "text", "preference", "kto", "auto_generate_qa"
]
HoldOut = Literal["auto", "phrasings", "documents"]
_DOCUMENT_SOURCES = ("rag_documents", "domain_corpus")


_Path = Annotated[str, Field(min_length=1)]


class Source(Section):
    """Source of the examples."""

    type: SourceType = Field(
        default="rag_documents",
        description="Contents of `path`: documents (rag_documents, domain_corpus), chats (conversation_logs), examples "
        "that others are invented from (synthetic), or the answers that users judged (human_feedback).",
    )
    path: Annotated[_Path | Annotated[tuple[_Path, ...], Field(min_length=1)] | None, BeforeValidator(as_tuple)] = (
        Field(
            default=None,
            description="Folder of documents, one document, a pattern ('docs/**/*.md') or a URI ('s3://bucket/docs', "
            "'https://example.org/page', 'sqlite:///faq.db?query=SELECT title, text FROM articles'), or a list of "
            "them; a relative one starts at the current directory. Of conversation_logs: exports and files of chats, "
            "likewise. "
            "Of human_feedback: a folder or URI; by default what the registry's home has.",
        )
    )
    strict: bool = Field(
        default=False,
        description="Stop at the first document, file of rows or record that can't be used; others are skipped.",
    )
    file_timeout_s: float = Field(
        default=300.0, gt=0, le=86400, description="Longest time to read one document; a slower one is skipped."
    )
    file_memory_mb: int = Field(
        default=4096, ge=64, le=1048576, description="Most memory to read one document in MiB; others are skipped."
    )
    ocr: str | None = Field(
        default=None,
        pattern=r"^(tesseract(:\w+(\+\w+)*)?|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$",
        description="Engine that recognizes the text of scanned PDF pages: 'tesseract', with languages "
        "'tesseract:eng+deu', or a plug-in 'module:function'; null: they are skipped and counted.",
    )
    include_metadata: bool = Field(default=True, description="Keep which document and passage an example came from.")


class Preprocessing(Section):
    """From documents to examples of one format."""

    format: RowFormat | None = Field(
        default=None,
        description="Layout of the examples that are written; null: the one that keeps everything (chatml for chats).",
    )
    max_length: int = Field(default=2048, ge=8, le=1048576, description="Longest example in tokens.")
    passage_words: int = Field(
        default=120, ge=10, le=100000, description="Words per passage that documents are split into."
    )
    with_passages: Literal["auto"] | bool = Field(
        default="auto",
        description="Ask the questions of the training split also with sentences of passages at hand, as retrieval "
        "brings them; 'auto': where a model wrote them.",
    )
    prompt_template: str | None = Field(
        default=None,
        pattern=r"\{question\}",
        description="Prompt of the application: {question} is the question, {context} its passage.",
    )
    system_prompt: str | None = Field(default=None, min_length=1, description="System turn that each chat begins with.")
    tokenize: bool = Field(
        default=False,
        description="Write the rows as tokens of base_model too, for fine_tuning.objective; `train` then reads those.",
    )
    qa_generation: QaGeneration = section(QaGeneration, "Questions and answers from passages.")


_BUILT_SPLIT_RATIO = 0.1


class DatasetValidation(Section):
    """The split that training doesn't see."""

    split_ratio: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="Share of the examples held out for evaluation. null: 0.1 of what is built from documents, and "
        "nothing of rows that exist. A validation file beside the rows, or a built folder's own split, comes first.",
    )
    hold_out: HoldOut = Field(
        default="auto",
        description="Held-out part of documents: whole 'documents', or 'phrasings' of facts that are trained in "
        "other words. auto: phrasings of a small corpus (below 20 documents) whose facts have several, else documents.",
    )
    quality_threshold: float | None = Field(
        default=None, ge=0, le=1, description="Least mean quality of a usable dataset."
    )

    @property
    def built_split_ratio(self) -> float:
        """Share of the built examples to hold out."""
        return _BUILT_SPLIT_RATIO if self.split_ratio is None else self.split_ratio


class DatasetConfig(Section):
    """The examples to train on and to evaluate with."""

    path: str | None = Field(
        default=None,
        min_length=1,
        description="A dataset that exists, used instead of `source`: a built folder, a file of examples (JSON, CSV, "
        "Parquet, ...), a folder of them, dataset_info.json#NAME, an Axolotl configuration. A relative one starts at "
        "the current directory.",
    )
    mixture: Annotated[
        Mapping[Annotated[str, Field(min_length=1)], Annotated[float, Field(gt=0, le=1e9)]],
        AfterValidator(FrozenMapping),
    ] = Field(
        default_factory=FrozenMapping,
        description="Several datasets that exist, instead of `path`: each one's path and its weight, {qa.jsonl: 3, "
        "chats: 1}. An epoch has as many rows as all of them; weights say whose.",
    )
    source: Source = section(Source, "Source of a new dataset.")
    format: DatasetFormat | None = Field(
        default=None,
        description="Short for preprocessing.format; 'auto_generate_qa' asks for question and answer pairs.",
    )
    preprocessing: Preprocessing = section(Preprocessing, "From documents to examples.")
    validation: DatasetValidation = section(DatasetValidation, "The held-out split.")
    quality_control: QualityControl = section(QualityControl, "Requirements that examples must meet.")
    synthetic_generation: SyntheticGeneration = section(SyntheticGeneration, "Invented examples.")
    augmentation: Augmentation = section(Augmentation, "Changed copies of examples; true: with its defaults.")

    def mistakes(self) -> Iterator[Mistake]:
        """The short and the long way of saying a thing must agree."""
        if self.mixture and self.path is not None:
            yield Mistake(("mixture", "path"), "is set beside {1}; put that one into the mixture, with a weight.")
        if self.format == "auto_generate_qa":
            if not self.preprocessing.qa_generation.enabled:
                yield Mistake(
                    ("format", "preprocessing.qa_generation.enabled"),
                    "is auto_generate_qa, but {1} is false; change one.",
                )
            elif self.source.type not in _DOCUMENT_SOURCES:
                yield Mistake(
                    ("format", "source.type"), f"makes questions of documents, but {{1}} is {self.source.type}."
                )
        elif self.format is not None and self.format != self.preprocessing.format:
            yield Mistake(
                ("format", "preprocessing.format"),
                f"is {self.format}, but {{1}} is {self.preprocessing.format}; keep one.",
            )
        if self.source.type == "synthetic" and not self.synthetic_generation.enabled:
            yield Mistake(
                ("source.type", "synthetic_generation.enabled"),
                "is synthetic, but {1} is false; set it to true, and base_model to the model that invents.",
            )

    @property
    def makes_questions(self) -> bool:
        """True if documents are read, and questions made of them."""
        return self.source.type in _DOCUMENT_SOURCES and self.preprocessing.qa_generation.enabled
