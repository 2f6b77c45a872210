"""Ports that are chosen now and bound later stay free meanwhile."""

import socket

import pytest

from llamafarm_ray.clusters import ports
from llamafarm_ray.clusters.ports import free_port, free_ports

FIRST_OF_THE_SYSTEMS = 32_768
"""Linux gives the ports from here on to connections, by default."""


def test_a_port_can_be_bound_and_no_connection_is_given_it():
    for _ in range(100):
        port = free_port()
        assert 20_000 <= port < FIRST_OF_THE_SYSTEMS
        with socket.create_server(("127.0.0.1", port)):
            pass


def test_a_port_in_use_is_passed_over(monkeypatch):
    used = free_ports(3)
    monkeypatch.setattr(ports, "_PORTS", range(used, used + 3))
    with socket.create_server(("127.0.0.1", used)), socket.create_server(("127.0.0.1", used + 2)):
        assert {free_port() for _ in range(20)} == {used + 1}


def test_neighbours_are_all_free(monkeypatch):
    used = free_ports(4)
    monkeypatch.setattr(ports, "_PORTS", range(used, used + 4))
    with socket.create_server(("127.0.0.1", used)):
        assert {free_ports(3) for _ in range(20)} == {used + 1}


def test_where_there_are_none_that_is_said(monkeypatch):
    used = free_ports(2)
    monkeypatch.setattr(ports, "_PORTS", range(used, used + 2))
    with socket.create_server(("127.0.0.1", used + 1)), pytest.raises(OSError, match="none has 2 free ones"):
        free_ports(2)
