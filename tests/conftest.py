"""One thread per test process: the processes of ``pytest -n auto`` share the machine.

Interrupts arrive even where a shell has started them in the background, which ignores these.
"""

import os
import signal
import threading

if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported, here and in subprocesses
