"""The models that an engine holds, under the names that requests call them by."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from llamafarm_ray.errors import InputError, NotFoundError

__all__ = ["NamedModels", "NamedModelsEngine"]

T = TypeVar("T")


class NamedModels(dict[str, T]):
    """Loaded models by name."""

    def __init__(self, base_name: str, base: T) -> None:
        super().__init__({base_name: base})
        self.base_name = base_name

    @property
    def base(self) -> T:
        """The base model."""
        return self[self.base_name]

    def find(self, name: str) -> T:
        """The model of a name.

        Raises:
            NotFoundError: nothing of that name is loaded.
        """
        if name not in self:
            raise NotFoundError(f"The model {name!r} is not loaded.")
        return self[name]

    def free(self, name: str) -> None:
        """Let a version go; answers under way hold it. One that is not loaded is fine.

        Raises:
            InputError: it is the base model.
        """
        if name == self.base_name:
            raise InputError(f"{name!r} is the base model.", hint="Stop the deployment to free it.")
        self.pop(name, None)


class _Bounded(Protocol):
    @property
    def max_model_len(self) -> int | None: ...


M = TypeVar("M", bound=_Bounded)


class NamedModelsEngine(Generic[M]):
    """The part of an :class:`~llamafarm_ray.serving.engines.base.Engine` that is about names."""

    def __init__(self, models: NamedModels[M]) -> None:
        self._models = models

    @property
    def loaded(self) -> list[str]:
        """The names that answer, sorted."""
        return sorted(self._models)

    async def unload_adapter(self, name: str) -> None:
        """See ``Engine.unload_adapter``.

        Raises:
            InputError: it is the base model.
        """
        self._models.free(name)

    def max_model_len(self, name: str) -> int | None:
        """See ``Engine.max_model_len``."""
        return self._models.find(name).max_model_len
