"""``python -m llamafarm_ray``: the command line where there is no console script, such as in a job."""

from llamafarm_ray.cli.main import main

if __name__ == "__main__":
    main()
