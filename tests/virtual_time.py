"""An event loop whose clock jumps to the next thing that is due: hours of waiting in no time, always the same."""

import asyncio
import selectors


class _Jumping(selectors.SelectSelector):
    def __init__(self):
        super().__init__()
        self.now = 0.0

    def select(self, timeout=None):
        ready = super().select(0)
        if not ready and timeout:
            self.now += timeout
        return ready


def run(coroutine):
    """Like ``asyncio.run``; nothing in it may wait for a thread or another process."""
    selector = _Jumping()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(coroutine)
