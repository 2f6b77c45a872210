"""Time limits for foreign calls that may never return."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["within"]

T = TypeVar("T")


def within(seconds: float, call: Callable[[], T]) -> T:
    """Return a call's result, or raise its error, if it ends in time; it goes on in a thread if it does not.

    Ray's calls wait forever for an address that does not answer.

    Args:
        call: function without arguments.

    Raises:
        TimeoutError: it took longer.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised again where it is waited for
            future.set_exception(error)

    threading.Thread(target=run, name="llamafarm-call", daemon=True).start()
    try:
        return future.result(timeout=seconds)
    except TimeoutError:
        raise TimeoutError(f"no answer within {seconds:.0f} s") from None
