"""A limit to the time that a measurement may take."""

import contextlib
import signal


class OutOfTime(BaseException):
    """Raised by the alarm; no ``except Exception`` on the way may take it for something else."""


@contextlib.contextmanager
def time_limit(seconds):
    def ring(*_):
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
