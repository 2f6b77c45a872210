"""``GET /v1/models``: the models that a key may use, as OpenAI lists them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from llamafarm_ray.serving.gateway.auth import Tenant
from llamafarm_ray.serving.http.asgi import Send, answer
from llamafarm_ray.serving.http.errors import ModelNotFoundError
from llamafarm_ray.serving.selection.model_selection import CARD_FIELD, Offer, card_of

__all__ = ["ModelList"]

_ROUTE = "/v1/models"


class ModelList:
    """The models of an application.

    Args:
        names: the names that requests may use, as of now.
        describe: gives what is known of some of them.
    """

    def __init__(
        self, names: Callable[[], list[str]], describe: Callable[[Iterable[str]], Awaitable[Mapping[str, Offer]]]
    ) -> None:
        self._names = names
        self._describe = describe
        self._created = int(time.time())

    def is_for(self, method: str, path: str) -> bool:
        """Return True if a request asks for the list, or for one model."""
        return method == "GET" and (path == _ROUTE or path.startswith(f"{_ROUTE}/"))

    async def answer(self, path: str, tenant: Tenant, send: Send) -> None:
        """Answer such a request.

        Raises:
            ModelNotFoundError: there is no such model, or not for this key.
        """
        names = [name for name in self._names() if tenant.may_use(name)]
        if path == _ROUTE:
            await answer(send, 200, {"object": "list", "data": await self._cards(names)})
            return
        name = path.removeprefix(f"{_ROUTE}/")
        if name not in names:
            raise ModelNotFoundError(f"The model {name[:120]!r} does not exist.")
        await answer(send, 200, (await self._cards([name]))[0])

    async def _cards(self, names: Sequence[str]) -> list[dict[str, object]]:
        """OpenAI's objects for models, with the facts of each."""
        known = await self._describe(names)
        card = {"object": "model", "created": self._created, "owned_by": "llamafarm"}
        return [{"id": name, **card, **({CARD_FIELD: card_of(known[name])} if name in known else {})} for name in names]
