"""A cluster and a process pool for all tests of a module: starting them takes seconds."""

import pytest
from clusters import local_cluster, process_pool
from distributed import Client


@pytest.fixture(scope="module")
def dask_client():
    with local_cluster(2) as cluster, Client(cluster) as client:
        yield client


@pytest.fixture(scope="module")
def pool():
    with process_pool(2) as executor:
        yield executor


@pytest.fixture(params=["dask_client", "pool"])
def any_client(request):
    return request.getfixturevalue(request.param)
