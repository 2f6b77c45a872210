"""An engine's routes over HTTP on loopback, without Ray."""

import threading
from contextlib import contextmanager

from patience import wait_until

from llamafarm_ray.serving.engines.app import EngineApp


@contextmanager
def serving(engine):
    """Serve an engine; gives the address of its API."""
    import uvicorn

    config = uvicorn.Config(EngineApp(engine), host="127.0.0.1", port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started, within_s=10)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join()
