"""Check a cluster for dangers, as far as it can be reached from here."""

from __future__ import annotations

import dataclasses
import os

from llamafarm_ray.clusters.check import Finding, findings
from llamafarm_ray.clusters.facts import Node, dashboard_of, nodes_of_cluster, this_node
from llamafarm_ray.clusters.standing import find
from llamafarm_ray.errors import ClusterError, InputError
from llamafarm_ray.workflows.clusters.cluster import LOCAL, connect, is_job_server

__all__ = ["check_cluster"]


def check_cluster(address: str | None) -> tuple[list[Finding], str]:
    """Return the findings for a cluster, and the name of the checked cluster. No Ray is started.

    Args:
        address: control address, or a dashboard's, of which only that and this machine are looked at. By default
            ``$RAY_ADDRESS``, else the Ray of ``llamafarm up``, else this machine.

    Raises:
        InputError: nothing answers at the address.
        ClusterError: the cluster can't be used, or a node of it does not answer.
    """
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address == LOCAL or (address is None and find() is None):
        return findings([_no_head()], None), "this machine, where no Ray of `llamafarm up` runs"
    if address is not None and is_job_server(address):
        asked = dashboard_of(address.rstrip("/"))
        if not asked.answers:
            raise InputError(f"Nothing answers at {address}.", hint="Is it the dashboard's address?")
        return findings([_no_head()], asked), f"{address} from outside, and this machine"
    with connect(address, allow_open=True) as cluster:
        from ray.exceptions import RayError  # imported by connect

        try:
            nodes = nodes_of_cluster()
        except (RayError, TimeoutError) as error:
            raise ClusterError(f"A node of {cluster.address} does not answer: {error}.") from error
        dashboard = dashboard_of(cluster.dashboard_url) if cluster.dashboard_url else None
        return findings(nodes, dashboard), f"the cluster at {cluster.address}, nodes: {len(nodes)}"


def _no_head() -> Node:
    """Return the facts of this machine where it stands for itself, and not for a cluster's head."""
    return dataclasses.replace(this_node(), gcs_storage="")
