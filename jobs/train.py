"""Fine-tune a model as a Ray job, and register the result.

    ray job submit --working-dir . -- python jobs/train.py --config jobs/configs/basic_lora.yaml

Takes the options of `llamafarm models train`. Paths are the cluster's; the trained files last in the registry's home,
since the job's own folder goes with the job.
"""

import sys

from llamafarm_ray.cli.main import run

if __name__ == "__main__":
    sys.exit(run(["models", "train", "--register", *sys.argv[1:]]))
