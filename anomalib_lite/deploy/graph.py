"""The graph of an exported file, run by ONNX Runtime."""

import ctypes
import os
import threading
import weakref
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..annotations import Path as PathLike
from ..io.files import open_file
from ..texts import printable
from .card import KEY, DetectorCard
from .processors import usable_processors
from .seal import check_seal, digest_of

_OLDEST = (1, 20)  # release of ONNX Runtime that reads what is exported
_MOST_THREADS = 4  # of a graph, unless more are asked for
_OUTPUTS = ("anomaly_score", "label", "anomaly_map")
_GRAPHS = weakref.WeakSet()


def is_onnx(path: PathLike) -> bool:
    """Whether a file's first bytes are those of an ONNX model, whatever its name.

    A model begins with its version of ONNX, a file of ``save`` with a length of 8 bytes.
    """
    try:
        with open_file(Path(path)) as file:
            head = file.read(8)
    except (OSError, ValueError):
        return False
    return len(head) == 8 and head[0] == 8 and any(head[3:])


class Answer(NamedTuple):
    """What a graph says of one image.

    Attributes
    ----------
    score : float
        Anomaly score: higher = more anomalous.
    label : int
        +1 normal, -1 anomalous, 0 undecided.
    map : ndarray of shape (H, W) or None
    p_value : float or None
    """

    score: float
    label: int
    map: np.ndarray | None
    p_value: float | None


class Graph:
    """The graph of an exported file. Several threads may ask it at the same time.

    A pickle holds the path of the file, which has to be there, unchanged, where it is read.

    Parameters
    ----------
    path : str or Path
    n_threads : int or None
        Threads of ONNX Runtime within an image; None is as many as there are processors that this
        process may use, up to four.

    Attributes
    ----------
    card : DetectorCard
    digest : str
        Hexadecimal SHA-256 of the file.
    n_bytes : int
    """

    def __init__(self, path: PathLike, n_threads: int | None = None):
        self.path, self.n_threads = Path(os.path.abspath(path)), n_threads
        self._lock = threading.Lock()
        self._open(path)
        _GRAPHS.add(self)

    def _open(self, path):
        onnxruntime = runtime()
        with open_file(Path(path)) as file:
            data = file.read()
        try:
            check_seal(data)
            self._session = _session(onnxruntime, data, self.n_threads)
            self.card = _card_of(self._session)
            _check_ends(self._session, self.card)
        except UnicodeDecodeError as error:  # of a name in the graph
            raise ValueError(f"{path}: damaged: {error}. Export it again.") from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        self.digest, self.n_bytes = digest_of(data), len(data)

    def ask(self, image: np.ndarray, map_size: tuple[int, int] | None) -> Answer:
        """What the graph says of an image.

        Parameters
        ----------
        image : ndarray of shape (H, W, C)
            Of the card's ``input`` dtype.
        map_size : tuple (H, W) or None
            None leaves the map out.
        """
        names = [*_OUTPUTS[: 2 if map_size is None else 3]]
        if self.card.conformal is not None:
            names.append("p_value")
        given = {
            "image": np.ascontiguousarray(image)[None],
            "map_size": np.array(map_size or (1, 1), dtype=np.int64),  # the smallest takes no time
        }
        session = self._session_here()
        try:
            outputs = session.run(names, given)
        except Exception as error:  # ONNX Runtime raises errors of its own
            raise ValueError(f"ONNX Runtime cannot run the graph: {_first_line(error)}") from error
        found = {name: output[0] for name, output in zip(names, outputs, strict=True)}
        p_value = found.get("p_value")
        return Answer(
            float(found["anomaly_score"]),
            int(found["label"]),
            found.get("anomaly_map"),
            None if p_value is None else float(p_value),
        )

    def _session_here(self):
        """The session, made anew in a process that was forked."""
        if self._session is None:
            with self._lock:
                if self._session is None:
                    self._open_again(self.digest)
        return self._session

    def _after_fork(self):
        """Leave the session to the other process, which has its threads: they survive no fork.

        It is never freed here, since that would wait for them for ever.
        """
        if self._session is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._session))
        self._session, self._lock = None, threading.Lock()

    def _open_again(self, digest):
        self._open(self.path)
        if self.digest != digest:
            raise ValueError(f"{self.path}: the file has changed since it was opened.")

    def __getstate__(self):
        return {"path": self.path, "n_threads": self.n_threads, "digest": self.digest}

    def __setstate__(self, state):
        self.path, self.n_threads = state["path"], state["n_threads"]
        self._lock = threading.Lock()
        self._open_again(state["digest"])
        _GRAPHS.add(self)


def _after_fork():
    for graph in _GRAPHS:
        graph._after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no forks
    os.register_at_fork(after_in_child=_after_fork)


def runtime() -> Any:
    """The module onnxruntime.

    Raises
    ------
    ImportError
        If it is missing or too old.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            f"exported detectors are run by ONNX Runtime, which cannot be imported ({error}): pip "
            "install onnxruntime",
            name="onnxruntime",
        ) from error
    version = onnxruntime.__version__
    if tuple(map(int, version.split(".")[:2])) < _OLDEST:
        wanted = ".".join(map(str, _OLDEST))
        raise ImportError(
            f"exported detectors need onnxruntime {wanted} or later, got {version}: pip install "
            "--upgrade onnxruntime",
            name="onnxruntime",
        )
    return onnxruntime


def _session(onnxruntime, data, n_threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads or min(usable_processors(), _MOST_THREADS)
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised, too
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others need it, too
    try:
        return onnxruntime.InferenceSession(
            data,
            options,
            providers=["CPUExecutionProvider"],
            enable_fallback=0,  # to the same provider, with a message on stdout
        )
    except Exception as error:  # it raises errors of its own
        raise ValueError(
            f"onnxruntime {onnxruntime.__version__} cannot read this model: {_first_line(error)} "
            "Written for a later one? pip install --upgrade onnxruntime"
        ) from error


def _card_of(session):
    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    if text is None:
        raise ValueError("an ONNX model, but not one written by export: it has no card.")
    try:
        return DetectorCard.from_json(text)
    except ValueError as error:
        raise ValueError(f"its card cannot be read: {error}") from error


def _check_ends(session, card):
    """Raise ValueError unless the graph takes and gives what the card says."""
    inputs = {each.name: each.type for each in session.get_inputs()}
    optional = {each.name: each.type for each in session.get_overridable_initializers()}
    given = {each.name for each in session.get_outputs()}
    dtype = {"float32": "float"}.get(card.input, card.input)
    wanted = {*_OUTPUTS} if card.conformal is None else {*_OUTPUTS, "p_value"}
    fits = inputs.pop("image", None) == f"tensor({dtype})"
    takes_size = (inputs.pop("map_size", None) or optional.get("map_size")) == "tensor(int64)"
    if not fits or not takes_size or inputs or not wanted <= given:
        raise ValueError(
            f"expected a graph of image ({card.input}) and map_size, with the outputs "
            f"{', '.join(sorted(wanted))}; it is another one. Export it again."
        )


def _first_line(error):
    return printable((str(error).strip() or type(error).__name__).splitlines()[0])
