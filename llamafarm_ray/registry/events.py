"""What can happen to a registry. Events are facts: frozen, append-only, never edited."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from llamafarm_ray.types import MODEL_NAME, ModelKind

__all__ = [
    "AliasMoved",
    "DatasetRegistered",
    "DeploymentRecorded",
    "DeploymentRemoved",
    "Event",
    "SourceDocument",
    "VersionRegistered",
]

Name = Annotated[str, Field(pattern=rf"^{MODEL_NAME}$")]
SemVer = Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$")]
DigestText = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class VersionRegistered(_Event):
    """A model got a version. Its content (``manifest``) never changes and the number is never used again."""

    type: Literal["version_registered"] = "version_registered"
    model: Name
    version: SemVer
    kind: ModelKind
    manifest: DigestText = Field(description="Digest of the manifest that lists its files.")
    size_bytes: int = Field(ge=0)
    base_model: str = Field(default="", description="The base as the user named it; empty for a base itself.")
    base_digest: DigestText | None = Field(default=None, description="Manifest digest of the base's files.")
    method: str = Field(default="", description="How it was trained: lora, qlora, full, ...")
    parameters: dict[str, Any] = Field(default_factory=dict)
    dataset: str = Field(default="", description="The dataset's name.")
    dataset_digest: DigestText | None = None
    config_digest: DigestText | None = None
    code_version: str = ""
    metrics: dict[str, Any] = Field(default_factory=dict, description="Evaluation results.")
    license: str = ""
    domain: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()


class AliasMoved(_Event):
    """An alias (``production``) of a model points at a version from now on."""

    type: Literal["alias_moved"] = "alias_moved"
    model: Name
    alias: Name
    version: SemVer


class SourceDocument(_Event):
    """A document that a dataset was made from."""

    path: str
    digest: DigestText
    num_examples: int = Field(ge=0)


class DatasetRegistered(_Event):
    """A dataset was built; ``documents`` says from what."""

    type: Literal["dataset_registered"] = "dataset_registered"
    name: Name
    digest: DigestText
    num_train: int = Field(ge=0)
    num_validation: int = Field(ge=0)
    location: str = ""
    documents: tuple[SourceDocument, ...] = ()


class DeploymentRecorded(_Event):
    """A Serve application answers for a base model and the adapters trained on it."""

    type: Literal["deployment_recorded"] = "deployment_recorded"
    application: Name
    base_model: str
    base_digest: DigestText
    url: str = Field(description="The OpenAI-compatible root, such as http://127.0.0.1:8000/v1.")
    ray_address: str


class DeploymentRemoved(_Event):
    """A Serve application was stopped."""

    type: Literal["deployment_removed"] = "deployment_removed"
    application: Name


Event = Annotated[
    VersionRegistered | AliasMoved | DatasetRegistered | DeploymentRecorded | DeploymentRemoved,
    Field(discriminator="type"),
]
