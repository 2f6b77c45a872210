"""The environment of a local Ray, which its parts read when they are imported."""

import os
import subprocess
import sys

CODE = """
from llamafarm_ray.clusters.local_ray import prepare_environment
prepare_environment()
from ray._private import ray_constants
print(ray_constants.RAY_DASHBOARD_STARTUP_TIMEOUT_S)
"""


def test_a_dashboard_has_time_to_start_on_a_busy_machine():
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY_DASHBOARD")}
    done = subprocess.run([sys.executable, "-c", CODE], env=variables, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "300\n"
