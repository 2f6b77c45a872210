"""A caller's registry token on its way to a job, encrypted with the cluster's token.

Ray writes the environment variables of a job to ``runtime_env_agent.log`` on its nodes, and shows them with the job.
"""

from __future__ import annotations

import base64
import hashlib
import os
import sys
from typing import Any

from cryptography.fernet import Fernet, InvalidToken

from llamafarm_ray.serving.ray_serve.token import read_token

__all__ = ["adopt_token", "sealed"]

_SEALED = "LLAMAFARM_SEALED_TOKEN"
_PLAIN = "LLAMAFARM_TOKEN"


def sealed(token: str, cluster_token: str) -> dict[str, Any]:
    """Return the ``runtime_env`` of a job whose processes shall have ``$LLAMAFARM_TOKEN``.

    Args:
        cluster_token: Ray's token of the cluster, which its nodes have too.
    """
    text = _cipher(cluster_token).encrypt(token.encode()).decode()
    return {"worker_process_setup_hook": f"{__name__}.adopt_token", "env_vars": {_SEALED: text}}


def adopt_token() -> None:
    """Decrypt the token of this process's job; Ray calls it as a worker starts, and the command line in a driver."""
    try:
        os.environ[_PLAIN] = _cipher(read_token()).decrypt(os.environ[_SEALED]).decode()
    except InvalidToken:
        sys.stderr.write(
            f"{_SEALED} can't be decrypted with this node's Ray token, so the job has no {_PLAIN}. "
            "Give every node the Ray token of the terminal that submits the job.\n"
        )


def _cipher(cluster_token: str) -> Fernet:
    """Return the cipher of a cluster; its token has 256 random bits, so one hash makes a key of it."""
    return Fernet(base64.urlsafe_b64encode(hashlib.sha256(b"llamafarm job token\0" + cluster_token.encode()).digest()))
