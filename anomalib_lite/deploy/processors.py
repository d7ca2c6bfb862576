"""How many processors this process may use, by its affinity and its container's quota."""

import contextlib
import math
import os
from pathlib import Path

_QUOTAS = (  # of cgroups, version 2 and 1: (files, whose values are quota and period)
    ("/sys/fs/cgroup/cpu.max",),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)


def usable_processors() -> int:
    """Processors that this process may use; at least 1.

    Examples
    --------
    >>> 1 <= usable_processors() <= os.cpu_count()
    True
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min([allowed or 1, *filter(None, map(_quota, _QUOTAS))]))


def _quota(files):
    """Processors that a quota allows; None without one."""
    with contextlib.suppress(OSError, ValueError):  # no such files, or the word "max"
        quota, period = map(int, " ".join(Path(file).read_text() for file in files).split())
        return math.ceil(quota / period) if quota > 0 < period else None
    return None
