"""Clusters and executors of tests."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from distributed import LocalCluster


def local_cluster(n_workers):
    return LocalCluster(
        n_workers=n_workers, threads_per_worker=1, processes=True, dashboard_address=":0"
    )


def process_pool(n_workers):
    return ProcessPoolExecutor(n_workers, mp_context=multiprocessing.get_context("spawn"))
