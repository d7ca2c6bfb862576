"""The command line ``anomalib-lite``: from a folder of good parts to a verdict on new ones.

What the commands take is in :mod:`~anomalib_lite.cli.parsers`, which loads quickly; the module of a
command, and with it PyTorch, loads when the command runs.
"""

import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib import import_module

from .console import Console
from .parsers import parse

_HEAVY = {"torch", "torchvision", "timm", "sklearn", "scipy", "joblib", "safetensors"}

ALL_GOOD, SOME_FLAGGED, NOT_DONE = 0, 1, 2
"""Exit codes. ``NOT_DONE``: something could not be read or done, whatever else was."""

_INTERRUPTED = 130  # as shells have it


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str or None, default=None
        What follows the name of the program; None is what the process was given.

    Returns
    -------
    code : int
        0: done, and all images are good; 1: some are called anomalous; 2: something could not be
        read or done; 130: interrupted.
    """
    args = parse(argv)
    console = Console(is_quiet=args.quiet, is_json=args.json)
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = console.show_warning
        try:
            from .exported import check_takes_exported  # loads more than --help needs

            check_takes_exported(args)
            command = import_module(f".{args.command}", __package__)
            return command.run(args, console)
        except ModuleNotFoundError as error:
            console.error(_in_words(error, args.command))
            return NOT_DONE
        except (ValueError, OSError, ImportError) as error:
            if isinstance(error, BrokenPipeError):
                return _after_broken_pipe()
            console.error(error)
            return NOT_DONE
        except KeyboardInterrupt:
            console.error("interrupted")
            return _INTERRUPTED
        except Exception as error:  # a mistake of ours, which must not look like a verdict
            console.say(traceback.format_exc())
            console.error(f"{type(error).__name__}: {error}")
            return NOT_DONE


def _in_words(error, command):
    """What a missing module means; many are left out where exported detectors are inspected."""
    if error.name is None or error.name.partition(".")[0] not in _HEAVY:
        return error
    return (
        f"{command} needs {error.name}, which is not installed: pip install anomalib-lite. Without "
        "it, inspect, info and doctor take exported detectors (.onnx)."
    )


def _after_broken_pipe():
    """Whoever read the results, such as ``head``, has had enough."""
    sys.stdout = None  # or the interpreter would complain as it flushes at its end
    return NOT_DONE
