"""An adapter pool over a fake engine that fails the test where an adapter is taken from under a request."""

import asyncio
from collections import Counter

from llamafarm_ray.errors import IntegrityError, UserError
from llamafarm_ray.serving.adapters.desired_state import Need
from llamafarm_ray.serving.adapters.pool import AdapterPool
from llamafarm_ray.serving.adapters.protocols import Room, TakenOut
from llamafarm_ray.serving.routing.resolution import Target
from llamafarm_ray.serving.telemetry.tracing import Tracing
from llamafarm_ray.types import Digest


def target(name):
    return Target(f"{name}:1.0.0#abc", f"{name}:1.0.0", Digest.of(name.encode()))


class Engine:
    """Holds adapters as vLLM does, and fails the test where one is taken from under a request."""

    def __init__(self):
        self.held, self.answering = [], Counter()
        self.may_load = asyncio.Event()
        self.may_load.set()
        self.load_failures = self.unload_failures = 0
        self.refusal = UserError("rank too high")
        self.most_held, self.unload_s = 0, 0.0
        self.taken_out = TakenOut()

    async def load_adapter(self, name, folder):
        await self.may_load.wait()
        await asyncio.sleep(0)
        if self.load_failures:
            self.load_failures -= 1
            raise self.refusal
        assert name not in self.held
        assert str(folder) == f"/files/{name}"
        self.held.append(name)
        self.most_held = max(self.most_held, len(self.held))

    async def unload_adapter(self, name):
        await asyncio.sleep(self.unload_s)
        if self.unload_failures:
            self.unload_failures -= 1
            raise OSError("the worker does not answer")
        assert not self.answering[name], f"{name} was unloaded under a request"
        self.held.remove(name)

    def check_adapter(self, name):
        self.taken_out.check(name)

    def check(self, name):
        assert name in self.held, f"{name} was asked and is not loaded"


class Files:
    def __init__(self):
        self.held, self.failures = Counter(), 0

    async def pull(self, target):
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise IntegrityError("a blob is missing")
        self.held[target.engine_name] += 1
        return f"/files/{target.engine_name}"

    def release(self, target):
        self.held[target.engine_name] -= 1
        assert self.held[target.engine_name] >= 0


class Watch:
    def __init__(self):
        self.told = []

    def loaded(self, ref, num_loaded):
        self.told.append(("loaded", ref[0], num_loaded))

    def unloaded(self, ref, num_loaded, reason):
        self.told.append((reason, ref[0], num_loaded))


class Replica:
    """A pool with everything around it; made on the event loop."""

    def __init__(self, in_use=4, loaded=20):
        self.engine, self.files, self.watch = Engine(), Files(), Watch()
        self.needs = {}
        self.pool = AdapterPool(
            self.engine,
            self.files,
            Room(in_use, loaded),
            need=self.need_of,
            aliases=self.aliases_of,
            watch=self.watch,
            tracing=Tracing(),
        )

    def target(self, name):
        return target(name)

    def need_of(self, target):
        return self.needs.get(target.ref.partition(":")[0], Need.NONE)

    def aliases_of(self, _target):
        return {}

    async def ask(self, name, turns=1):
        """A request that the engine works on for some turns of the loop."""
        wanted = self.target(name)
        async with self.pool.use(wanted):
            self.engine.answering[wanted.engine_name] += 1
            try:
                for _ in range(turns):
                    await asyncio.sleep(0)
                    self.engine.check(wanted.engine_name)
            finally:
                self.engine.answering[wanted.engine_name] -= 1

    async def ask_soon(self, asking):
        """What must not wait for the requests under way."""
        await asyncio.wait_for(asking, 5)

    def want(self, **needs):
        """The registry says what it wants of each version."""
        self.needs = needs
        self.pool.registry_changed()

    @property
    def held(self):
        return "".join(name[0] for name in self.engine.held)


async def settled(is_so, timeout_s=1.0):
    """Wait for what other tasks bring about."""
    async with asyncio.timeout(timeout_s):
        while not is_so():  # noqa: ASYNC110 - of things that tell nobody when they change
            await asyncio.sleep(0.01)
