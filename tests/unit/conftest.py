"""One thread a process for what computes: unit tests run on every core, a process each."""

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # read when torch is imported
    os.environ.setdefault(name, "1")
