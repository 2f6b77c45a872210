"""Serve a base model and its adapters as a Ray job.

    ray job submit --working-dir . -- python jobs/deploy.py --config jobs/configs/serve_only.yaml

Takes the options of `llamafarm models deploy`. Paths are the cluster's; what shall last goes to an absolute path,
a bucket or the registry, since the job's own folder goes with the job.
"""

import sys

from llamafarm_ray.cli.main import run

if __name__ == "__main__":
    sys.exit(run(["models", "deploy", *sys.argv[1:]]))
