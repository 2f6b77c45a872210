"""The port on which a Serve replica takes calls of other deployments, on the address of its node.

Ray binds it to every interface, whatever address the node has. This relies on ``ray.serve._private.replica`` taking
``add_port_to_grpc_server`` from its globals, once the deployment's class was made. A test sees what a replica listens
on.
"""

from __future__ import annotations

import ipaddress

__all__ = ["listen_on_loopback"]

_EVERY_INTERFACE = "[::]:"


def listen_on_loopback() -> None:
    """Keep this replica's port on loopback if its node is on loopback.

    Elsewhere it stays as it is: a node's address may be one that other nodes use for it, and that it can't bind.
    """
    import ray

    address = ray.util.get_node_ip_address()
    if not ipaddress.ip_address(address).is_loopback:
        return
    from ray.serve._private import replica  # Serve reads the environment when it is imported

    add_port = replica.add_port_to_grpc_server

    def add_own_port(server: object, where: str) -> int:
        host = f"[{address}]:" if ":" in address else f"{address}:"
        port: int = add_port(server, where.replace(_EVERY_INTERFACE, host))
        return port

    replica.add_port_to_grpc_server = add_own_port
