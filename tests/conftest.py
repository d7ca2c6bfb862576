"""One thread per test process: the processes of ``pytest -n auto`` share the machine."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported, here and in subprocesses
