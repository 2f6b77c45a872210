"""Events of a registry. They are facts: frozen, append-only, never edited.

A field that is added later needs a default, so that logs written before it can still be read.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from llamafarm_ray.registry.fields import MAX_TEXT, DigestText, JsonObject, ModelName, Name, SemVer, TagText
from llamafarm_ray.registry.governance.access import Role
from llamafarm_ray.registry.governance.policy import Policy
from llamafarm_ray.registry.governance.quota import Quota
from llamafarm_ray.registry.rollouts import Plan
from llamafarm_ray.types import NAME, ModelKind

__all__ = [
    "AdapterFacts",
    "AliasMoved",
    "AliasRemoved",
    "ContentCondemned",
    "DatasetRegistered",
    "DeploymentRecorded",
    "DeploymentRemoved",
    "Event",
    "MetricsRecorded",
    "PolicySet",
    "PrincipalAdded",
    "PrincipalGranted",
    "PrincipalRevoked",
    "PromotionApproved",
    "QuotaSet",
    "Refused",
    "RolloutPaused",
    "RolloutResumed",
    "RolloutStarted",
    "RolloutStepped",
    "RolloutStopped",
    "SourceDocument",
    "StatedFacts",
    "VersionDeprecated",
    "VersionEvent",
    "VersionFacts",
    "VersionPurged",
    "VersionRegistered",
    "VersionRetired",
    "VersionSigned",
    "VersionTagged",
]


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", str_max_length=MAX_TEXT)

    def model_post_init(self, context: object, /) -> None:
        """Share what pydantic keeps per object on which fields were given: 2 KiB each, for tens of thousands."""
        del context
        object.__setattr__(self, "__pydantic_fields_set__", _ALL_FIELDS)


_ALL_FIELDS: set[str] = set()


class VersionEvent(_Event):
    """Something that happened to a version."""

    model: ModelName
    version: SemVer


class AdapterFacts(BaseModel):
    """The findings about an adapter at its registration."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_max_length=MAX_TEXT)

    proved: bool = Field(description="True if it was proved against its base; if not, that is done at each load.")
    not_for_vllm: str = Field(default="", description="A feature that vLLM can't serve, so another engine is chosen.")
    renamed: str = Field(default="", description="The change of its tensors' names, if there was one.")


WEIGHTS = "weights"
"""The parameter that names the format of the files of a quantized version, and of an adapter in GGUF."""


class StatedFacts(_Event):
    """Facts about a version that a user may state at its registration; what is left out comes from the run's record."""

    base_model: str = Field(default="", description="The base as the user named it; empty for a base itself.")
    method: str = Field(default="", description="Training method: lora, qlora, full, ...")
    dataset: str = Field(default="", description="The dataset's name.")
    run: str = Field(default="", description="The training run that made it.")
    license: str = Field(default="", description="SPDX id.")
    usage_restrictions: str = ""
    capabilities: tuple[str, ...] = Field(default=(), description="Tasks it is for: chat, summarization, ...")
    domain: str = ""
    description: str = ""
    tags: tuple[TagText, ...] = Field(default=(), max_length=100)


class VersionFacts(StatedFacts):
    """Facts about a version: those that a user states, and those that the record of its run adds."""

    base_digest: DigestText | None = Field(default=None, description="Manifest digest of the base's files.")
    derived_from: tuple[DigestText, ...] = Field(
        default=(), description="Manifests it was made of besides the base: a merged adapter, what was quantized."
    )
    parameters: JsonObject = Field(default_factory=dict)
    dataset_digest: DigestText | None = None
    config_digest: DigestText | None = None
    metrics: JsonObject = Field(default_factory=dict, description="Evaluation results at registration.")


class VersionRegistered(VersionFacts, VersionEvent):
    """A model got a version. Its content (``manifest``) never changes and the number is never used again."""

    type: Literal["version_registered"] = "version_registered"
    kind: ModelKind
    manifest: DigestText = Field(description="Digest of the manifest that lists its files.")
    size_bytes: int = Field(ge=0)
    code_version: str = ""
    resources: JsonObject = Field(default_factory=dict, description="Needed resources: memory_bytes, gpus, ...")
    adapter: AdapterFacts | None = None

    @property
    def fills_engine(self) -> bool:
        """True if an engine can't load it beside other models: quantized safetensors, unlike GGUF and ONNX files."""
        return self.parameters.get(WEIGHTS) == "safetensors"

    @property
    def is_gguf_adapter(self) -> bool:
        """True for an adapter in GGUF: it was trained on other files than those that llama.cpp adds it to."""
        return self.kind is ModelKind.ADAPTER and self.parameters.get(WEIGHTS) == "gguf"


class MetricsRecorded(VersionEvent):
    """A version was evaluated (again): these results replace earlier ones of the same name."""

    type: Literal["metrics_recorded"] = "metrics_recorded"
    metrics: JsonObject


class VersionTagged(VersionEvent):
    """A version's tags are these from now on."""

    type: Literal["version_tagged"] = "version_tagged"
    tags: tuple[TagText, ...] = Field(max_length=100)


class VersionSigned(VersionEvent):
    """A version's manifest was signed."""

    type: Literal["version_signed"] = "version_signed"
    signature: DigestText = Field(description="Digest of the stored signature, a Sigstore bundle.")
    public_key: str = Field(max_length=4096, description="The key that verifies it, PEM.")
    key: DigestText = Field(description="Digest of that key's DER form.")


class VersionDeprecated(VersionEvent):
    """A version still works, and people are told to use another."""

    type: Literal["version_deprecated"] = "version_deprecated"
    message: str = ""


class VersionRetired(VersionEvent):
    """A version's end of life: it is not served, pulled or promoted any more."""

    type: Literal["version_retired"] = "version_retired"
    message: str = ""


class VersionPurged(VersionEvent):
    """A retired version's content was deleted; its record stays."""

    type: Literal["version_purged"] = "version_purged"


class AliasMoved(_Event):
    """An alias (``production``) of a model points at a version from now on."""

    type: Literal["alias_moved"] = "alias_moved"
    model: ModelName
    alias: Name
    version: SemVer
    is_rollback: bool = Field(default=False, description="True for a move back to the earlier target.")


class AliasRemoved(_Event):
    """An alias of a model points at nothing from now on."""

    type: Literal["alias_removed"] = "alias_removed"
    model: ModelName
    alias: Name


class _RolloutEvent(_Event):
    model: ModelName
    alias: Name
    number: int = Field(ge=1, description="Number of the alias's rollout, counted from 1.")


class RolloutStarted(_RolloutEvent):
    """Requests to an alias are split between its target and a candidate from now on.

    It ends with :class:`RolloutStopped`, or when the alias moves: a promotion is an :class:`AliasMoved` to the
    candidate, and a move elsewhere aborts it.
    """

    type: Literal["rollout_started"] = "rollout_started"
    baseline: SemVer
    candidate: SemVer
    plan: Plan


class RolloutStepped(_RolloutEvent):
    """The candidate gets the share of the plan's step of this index from now on."""

    type: Literal["rollout_stepped"] = "rollout_stepped"
    step: int = Field(ge=1)


class RolloutPaused(_RolloutEvent):
    """The split stays as it is until the rollout is resumed."""

    type: Literal["rollout_paused"] = "rollout_paused"


class RolloutResumed(_RolloutEvent):
    """The rollout continues from where it was paused."""

    type: Literal["rollout_resumed"] = "rollout_resumed"


class RolloutStopped(_RolloutEvent):
    """The candidate gets no requests any more; the alias stays at the baseline."""

    type: Literal["rollout_stopped"] = "rollout_stopped"
    is_rollback: bool = Field(default=False, description="A guard was broken, or the baseline proved better.")


class PolicySet(_Event):
    """Conditions that a version must meet, from now on, before this alias may point at it."""

    type: Literal["policy_set"] = "policy_set"
    alias: Name
    policy: Policy


class QuotaSet(_Event):
    """Limits of a namespace from now on."""

    type: Literal["quota_set"] = "quota_set"
    namespace: str = Field(pattern=rf"^(?:{NAME})?$", description="Empty: that of names without one.")
    quota: Quota


class PromotionApproved(VersionEvent):
    """Approval by the committer that the alias may point at the version."""

    type: Literal["promotion_approved"] = "promotion_approved"
    alias: Name


class SourceDocument(_Event):
    """A document that a dataset was made from."""

    path: str
    digest: DigestText
    num_examples: int = Field(ge=0)


class DatasetRegistered(_Event):
    """A dataset was built; ``documents`` says from what."""

    type: Literal["dataset_registered"] = "dataset_registered"
    name: ModelName
    digest: DigestText
    num_train: int = Field(ge=0)
    num_validation: int = Field(ge=0)
    location: str = ""
    documents: tuple[SourceDocument, ...] = ()
    manifest: DigestText | None = Field(
        default=None, description="Manifest of its files, where the home stores them: an evaluation set."
    )


class DeploymentRecorded(_Event):
    """A Serve application answers for a base model and the adapters trained on it."""

    type: Literal["deployment_recorded"] = "deployment_recorded"
    application: Name
    base_model: str
    base_digest: DigestText
    url: str = Field(description="The OpenAI-compatible root, such as http://127.0.0.1:8000/v1.")
    ray_address: str
    adapters: tuple[str, ...] = Field(default=(), description="The versions (name:version) it loads when it starts.")


class DeploymentRemoved(_Event):
    """A Serve application was stopped."""

    type: Literal["deployment_removed"] = "deployment_removed"
    application: Name


class PrincipalAdded(_Event):
    """A principal was added: the holder of the token with this digest."""

    type: Literal["principal_added"] = "principal_added"
    name: Name
    token_digest: DigestText
    grants: dict[str, Role] = Field(description="Role by namespace; ``*`` is every namespace, empty the one without.")
    expires: dt.datetime | None = None


class PrincipalGranted(_Event):
    """A principal's roles are these from now on."""

    type: Literal["principal_granted"] = "principal_granted"
    name: Name
    grants: dict[str, Role]


class PrincipalRevoked(_Event):
    """A principal's token is worth nothing from now on."""

    type: Literal["principal_revoked"] = "principal_revoked"
    name: Name


class Refused(_Event):
    """A command was refused, by access control or by a policy."""

    type: Literal["refused"] = "refused"
    action: str
    target: str
    rule: str
    message: str
    alias: str = Field(default="", description="The alias that should have been moved, if any.")


class ContentCondemned(_Event):
    """Stored bytes that nothing refers to: these generations of them are deleted from now on, and never used again.

    Later writers store the same bytes under the next generation's name, so a collector that was paused for an hour
    can't delete what somebody published meanwhile.
    """

    type: Literal["content_condemned"] = "content_condemned"
    generations: dict[DigestText, int]


Event = Annotated[
    VersionRegistered
    | MetricsRecorded
    | VersionTagged
    | VersionSigned
    | VersionDeprecated
    | VersionRetired
    | VersionPurged
    | AliasMoved
    | AliasRemoved
    | RolloutStarted
    | RolloutStepped
    | RolloutPaused
    | RolloutResumed
    | RolloutStopped
    | PolicySet
    | QuotaSet
    | PromotionApproved
    | DatasetRegistered
    | DeploymentRecorded
    | DeploymentRemoved
    | PrincipalAdded
    | PrincipalGranted
    | PrincipalRevoked
    | Refused
    | ContentCondemned,
    Field(discriminator="type"),
]
