"""Methods on data sets: rows measured one by one, each in a process of its own, and tables."""

from .running import benchmark
from .tables import BenchmarkTable

__all__ = ["BenchmarkTable", "benchmark"]
