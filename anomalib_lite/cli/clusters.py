"""The workers of ``--workers`` and ``--cluster``, by dask."""

import logging
import signal
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import resource_tracker
from typing import Any

from ..texts import plural
from .console import Console

_PATIENCE = 10  # seconds in which a scheduler answers
_INSTALL = '--workers and --cluster need {}: pip install "anomalib_lite[distributed]"'
# Nannies have workers return memory to Linux after every operation, for which PyTorch pays dearly.
_ENVIRONMENT = {"MALLOC_TRIM_THRESHOLD_": 134217728, "MALLOC_MMAP_THRESHOLD_": 33554432}


@contextmanager
def workers(args: Namespace, console: Console) -> Iterator[Any]:
    """A client of the workers that a command is to use, for as long as it does; None without any.

    Parameters
    ----------
    args : Namespace
        With ``cluster``, the address of a scheduler, and ``workers``, their number; or None.
    console : Console

    Raises
    ------
    ModuleNotFoundError
        If dask.distributed is not installed.
    ValueError
        If no scheduler answers, or workers die again and again.
    """
    if args.cluster is None and args.workers is None:
        yield None
        return
    from ..distributed.engines import LostWorkers

    try:
        import dask
        import distributed
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(_INSTALL.format(error.name)) from error
    with _silence(), ExitStack() as stack:
        if args.cluster is None:
            client = stack.enter_context(_here(dask, distributed, args.workers))
        else:
            client = stack.enter_context(_there(distributed, args.cluster, console))
        try:
            yield client
        except (distributed.KilledWorker, LostWorkers) as error:
            raise ValueError(
                "workers died one after the other at the same task, perhaps for want of memory. "
                f"Give each more of it, or start fewer. ({error})"
            ) from error


@contextmanager
def _silence():
    """Nothing is logged: errors come to the command as exceptions."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def _here(dask, distributed, n_workers):
    """A client of processes of one thread each, which end with the context."""
    name = "distributed.nanny.pre-spawn-environ"
    environment = {f"{name}.{key}": value for key, value in _ENVIRONMENT.items()}
    cluster = None
    try:
        with dask.config.set(environment), _deaf_to_interrupts():
            cluster = distributed.LocalCluster(
                n_workers=n_workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
            )
        with distributed.Client(cluster) as client:
            yield client
    finally:
        if cluster is not None:
            with suppress(AssertionError):  # of dask's, while it replaces a worker that was lost
                cluster.close()


@contextmanager
def _deaf_to_interrupts():
    """Threads and processes started here never hear of Ctrl-C; this thread does at the end.

    Terminals send it to all processes. It is the command that ends the others.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # which would let this thread hear again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _there(distributed, address, console):
    """A client of a scheduler that runs already."""
    try:
        client = distributed.Client(address, timeout=_PATIENCE)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--cluster {address}: no scheduler of dask answers there. Expected an address such as "
            f"tcp://host:8786, which dask scheduler prints when it starts. ({error})"
        ) from error
    with client:
        n_workers = len(client.nthreads())
        console.say(f"{address}: {plural(n_workers, 'worker')}")
        if not n_workers:
            console.say("waiting for the first: dask worker " + address)
        yield client
