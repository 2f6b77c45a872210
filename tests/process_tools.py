"""Processes of the tests: those that their own Ray started, by title, and children that share nothing with this one."""

import functools
import ipaddress
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import psutil

__all__ = ["barrier", "child", "is_loopback", "pipe", "pool", "titled"]

_PRELOADED = [
    "aiobotocore.session",
    "hypothesis",
    "pytest",
    "s3fs",
    "llamafarm_ray.registry",
    "llamafarm_ray.storage",
    "llamafarm_ray.storage.downloads.downloads",
]


def child(target, *args):
    """A process that is yet to be started, with this one's environment, and nothing else of it."""
    return _context().Process(target=_call, args=(dict(os.environ), target, args))


def barrier(number):
    """A barrier that children can be given."""
    return _context().Barrier(number)


def pipe():
    """The two ends of a connection, one of which a child can be given."""
    return _context().Pipe()


def pool(number):
    """An executor of children."""
    environment = (dict(os.environ),)
    return ProcessPoolExecutor(number, mp_context=_context(), initializer=_take, initargs=environment)


@functools.cache
def _context():
    """Children are forked from a process that has imported, once, what takes each of them a second to import."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def _take(environment):
    os.environ.update(environment)


def _call(environment, target, args):
    _take(environment)
    target(*args)


def titled(start: str) -> list[psutil.Process]:
    """Descendants of this process whose title begins so; the system keeps fifteen letters of a name, Ray more of it.

    Any of them may end at any moment, before it is asked for its name too: it is left out.
    """
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.name().startswith(start) or " ".join(process.cmdline()).startswith(start):
                found.append(process)
        except psutil.Error:
            continue
    return found


def is_loopback(address: str) -> bool:
    """Return True if an address is this machine's alone, IPv4 inside IPv6 too."""
    found = ipaddress.ip_address(address)
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback
