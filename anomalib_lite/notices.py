"""Warnings that point at the user's own line."""

import sys
import warnings
from types import FrameType


def user_frame() -> FrameType:
    """The frame outside this package which led to the caller, in this thread."""
    frame = sys._getframe(1)
    inside = ("anomalib_lite", "contextlib", "torch", "sklearn")
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in inside:
        frame = frame.f_back
    return frame


def warn_user(message: str, frame: FrameType | None = None) -> None:
    """Issue a UserWarning that points at the line outside this package which led to it.

    A worker's thread, which no line of the user's leads to, gives the :func:`user_frame` of the
    call that it works for.
    """
    frame = user_frame() if frame is None else frame
    known = frame.f_globals
    warnings.warn_explicit(
        message,
        UserWarning,
        frame.f_code.co_filename,
        frame.f_lineno,
        module=known.get("__name__"),
        registry=known.setdefault("__warningregistry__", {}),
    )
