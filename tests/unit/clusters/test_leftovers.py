"""Processes that belong to a local Ray, and those that don't."""

import subprocess
import sys

import psutil

from llamafarm_ray.clusters.leftovers import end_leftovers, marked_as

QUEUE = """
import multiprocessing, sys
from pathlib import Path
from llamafarm_ray.clusters.leftovers import end_leftovers, marked_as
with marked_as(Path(sys.argv[1])):
    queue = multiprocessing.get_context("spawn").Queue()
print(end_leftovers(Path(sys.argv[1]), grace_s=0))
"""


def test_what_was_started_in_the_block_is_ended_and_nothing_else(tmp_path):
    code = [sys.executable, "-c", "import time; time.sleep(60)"]
    other = subprocess.Popen(code)
    try:
        with marked_as(tmp_path):
            ours = subprocess.Popen(code)
        assert len(end_leftovers(tmp_path, grace_s=0)) == 1
        assert not psutil.pid_exists(ours.pid)
        assert other.poll() is None
    finally:
        for process in (other, ours):
            process.kill()
            process.wait()


def test_a_program_keeps_what_it_shares_between_its_own_processes(tmp_path):
    """Python's resource tracker would complain at the program's end."""
    done = subprocess.run([sys.executable, "-c", QUEUE, str(tmp_path)], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
