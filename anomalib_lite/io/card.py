"""What a saved file says of itself, read without making its estimator."""

from pathlib import Path
from typing import Any, NamedTuple

from ..annotations import Path as PathLike
from .strict_json import parsed


class Card(NamedTuple):
    """What a file says of itself.

    Attributes
    ----------
    estimator : str
        Name of the estimator's class.
    versions : dict of str to str
        Versions of the packages that wrote it.
    notes : dict of str to str
        What ``save`` was given.
    digest : str
        Hexadecimal SHA-256 of all that the file holds.
    n_bytes : int
    """

    estimator: str
    versions: dict[str, str]
    notes: dict[str, str]
    digest: str
    n_bytes: int


def read_card(path: PathLike) -> Card:
    """What a file written by ``save`` says of itself; its estimator is not made.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    card : Card

    Raises
    ------
    ValueError
        If the file is not one of these, or is damaged.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from anomalib_lite import GaussianDensity
    >>> from anomalib_lite.io import read_card
    >>> density = GaussianDensity().fit(np.eye(3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     density.save(os.path.join(folder, "part.alite"), notes={"line": "7"})
    ...     card = read_card(os.path.join(folder, "part.alite"))
    >>> card.estimator, card.notes
    ('GaussianDensity', {'line': '7'})
    """
    from ..contexts import plain_context  # these need PyTorch, and a card does not
    from .container import DAMAGED, digest, read

    path = Path(path)
    with plain_context():
        text, tensors = read(path)
        content_digest = digest(text, tensors)
    try:
        manifest = parsed(text)
        (content,) = manifest["estimator"].values()
        card = Card(
            estimator=content["class"],
            versions=checked_notes(manifest["versions"]),
            notes=checked_notes(manifest.get("notes", {})),
            digest=content_digest,
            n_bytes=path.stat().st_size,
        )
    except Exception as error:  # whatever JSON may hold
        raise ValueError(f"{path}: {DAMAGED}: {error}.") from error
    if not isinstance(card.estimator, str):
        raise ValueError(f"{path}: {DAMAGED}: it names no class.")
    return card


def checked_notes(notes: Any) -> dict[str, str]:
    """Notes, if they are names and texts."""
    texts = [*notes.items()] if isinstance(notes, dict) else [None]
    if not all(isinstance(text, str) for pair in texts for text in pair or [None]):
        raise ValueError(f"notes: expected a dict of str to str, got {notes!r}.")
    return notes
