"""``GET /v1/models``: what a key may use, as OpenAI lists it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from llamafarm_ray.errors import NotFoundError
from llamafarm_ray.serving.access import Tenant
from llamafarm_ray.serving.asgi import Send, answer

__all__ = ["ModelList"]

_ROUTE = "/v1/models"


class ModelList:
    """The models of an application.

    Args:
        names: the names that requests may use, as of now.
    """

    def __init__(self, names: Callable[[], list[str]]) -> None:
        self._names = names
        self._created = int(time.time())

    def is_for(self, method: str, path: str) -> bool:
        """Whether a request asks for the list, or for one model."""
        return method == "GET" and (path == _ROUTE or path.startswith(f"{_ROUTE}/"))

    async def answer(self, path: str, tenant: Tenant, send: Send) -> None:
        """Answer such a request.

        Raises:
            NotFoundError: there is no such model, or not for this key.
        """
        names = [name for name in self._names() if tenant.may_use(name)]
        if path == _ROUTE:
            await answer(send, 200, {"object": "list", "data": [self._card(name) for name in names]})
            return
        name = path.removeprefix(f"{_ROUTE}/")
        if name not in names:
            raise NotFoundError(f"The model {name[:120]!r} does not exist.")
        await answer(send, 200, self._card(name))

    def _card(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._created, "owned_by": "llamafarm"}
