"""Run a sweep as a Ray job, and register the best.

    ray job submit --working-dir . -- python jobs/tune.py --config jobs/configs/tune.yaml --output /shared/sweep

Takes the options of `llamafarm models tune`. Paths are the cluster's; the sweep's folder must be one that all nodes
share. A job that was lost is submitted again with the same options, and goes on.
"""

import sys

from llamafarm_ray.cli.main import run

if __name__ == "__main__":
    sys.exit(run(["models", "tune", "--register", *sys.argv[1:]]))
