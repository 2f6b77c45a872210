"""Measure a model as a Ray job.

    ray job submit --working-dir . -- python jobs/evaluate.py --model NAME --config CONFIG

Takes the options of `llamafarm models evaluate`. Paths are the cluster's; what shall last goes to an absolute path,
a bucket or the registry, since the job's own folder goes with the job.
"""

import sys

from llamafarm_ray.cli.main import run

if __name__ == "__main__":
    sys.exit(run(["models", "evaluate", *sys.argv[1:]]))
