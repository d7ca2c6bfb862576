"""One thread a test process: the processes of ``pytest -n auto`` share the machine."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read by torch when it is imported, here and in subprocesses
