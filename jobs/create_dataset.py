"""Build a dataset as a Ray job.

    ray job submit --working-dir . -- python jobs/create_dataset.py --config jobs/configs/basic_lora.yaml

Takes the options of `llamafarm models create-dataset`. Paths are the cluster's; what shall last goes to an absolute
path, a bucket or the registry, since the job's own folder goes with the job.
"""

import sys

from llamafarm_ray.cli.main import run

if __name__ == "__main__":
    sys.exit(run(["models", "create-dataset", *sys.argv[1:]]))
