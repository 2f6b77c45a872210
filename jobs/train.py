"""Fine-tune a model as a Ray job, and register the result.

    ray job submit --working-dir . -- python jobs/train.py --config jobs/configs/basic_lora.yaml

Takes the options of `llamafarm models train`. Paths are the cluster's. Relative outputs lie in a folder of this
configuration below ~/llamafarm-jobs, where the same command goes on; what is registered lasts in the registry's home.
"""

import sys

from llamafarm_ray.cli.main import run

if __name__ == "__main__":
    sys.exit(run(["models", "train", "--register", *sys.argv[1:]]))
