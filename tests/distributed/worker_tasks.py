"""Functions that tests run on workers."""

import os
import signal
import time
from pathlib import Path


class Counted:
    """Leaves a file in a folder each time that it is unpickled."""

    def __init__(self, folder, value):
        self.folder, self.value = folder, value

    def __reduce__(self):
        return _unpickled, (self.folder, self.value)


def _unpickled(folder, value):
    Path(folder, f"{os.getpid()}-{time.monotonic_ns()}").touch()
    return Counted(folder, value)


def add(*numbers):
    return sum(numbers)


def value_and_process(counted, seconds=0.0):
    time.sleep(seconds)
    return counted.value, os.getpid()


def fail(message):
    raise ValueError(message)


def fail_with(message, *_):
    raise ValueError(message)


def die_once(marker, *numbers):
    """End this process, the first time."""
    if not os.path.exists(marker):
        Path(marker).touch()
        die()
    return sum(numbers)


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
