"""The method ``export`` of detectors."""

from typing import TYPE_CHECKING

from ..annotations import Images, Path

if TYPE_CHECKING:
    from .parity import Parity


class ExportMixin:
    """Gives a fitted detector ``export``.

    Its ``_exported()`` returns the detector that looks at images, itself or the one that it wraps,
    and the :class:`~anomalib_lite.export.plan.Ranks` that p-values are read from, or None.
    """

    def export(
        self,
        path: Path,
        *,
        images: Images | None = None,
        input: str = "auto",
        notes: dict[str, str] | None = None,
    ) -> "Parity":
        """Write the whole detector to one ONNX file, for machines without PyTorch.

        The file takes decoded pixels and gives anomaly scores, labels and maps: resizing, network,
        search, threshold and all. Read it with :class:`anomalib_lite.deploy.OnnxDetector`, or with
        any runtime of ONNX. Before it is written, images go through both: where scores, maps or
        labels differ, nothing is written.

        Parameters
        ----------
        path : str or Path
            Replaced as a whole or, if anything goes wrong, not at all.
        images : array, tensor, list, folder, Dataset, DataLoader or iterable, or None, default=None
            Images to compare both on, best those of good parts and of defects. They are read twice,
            and have to come in the same order. None: a few that are made up, about as bright as
            those of fit.
        input : {"auto", "uint8", "uint16", "float32"}, default="auto"
            Type of the pixels that the file takes; floats lie in [0, 1]. "auto": uint8, unless the
            images of fit had more.
        notes : dict of str to str, or None, default=None
            What else the file shall say of itself; it is in the reader's ``card``.

        Returns
        -------
        parity : Parity
            Named tuple (n_images, score, map, ...): the largest differences, of scores relative, of
            maps as a share of their range.

        Raises
        ------
        ValueError
            If the detector cannot be exported, or would say something else than this one.
        ImportError
            If a package is missing: ``pip install 'anomalib_lite[onnx]'``.
        OSError
            If the file cannot be written.

        Notes
        -----
        Scores may differ by 1e-4, relative to the larger of the score and the distance between the
        median normal image and the threshold; maps by 1e-3 of the range up to what is abnormal in
        them; labels where a score is that of the threshold, up to rounding.

        Examples
        --------
        >>> import os, tempfile
        >>> import numpy as np
        >>> from anomalib_lite import PaDiM
        >>> from anomalib_lite.deploy import OnnxDetector
        >>> images = np.random.default_rng(0).integers(90, 110, (20, 64, 64), dtype=np.uint8)
        >>> detector = PaDiM(image_size=64, false_alarm_rate=0.1, random_state=0).fit(images)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     parity = detector.export(os.path.join(folder, "part.onnx"), images=images)
        ...     exported = OnnxDetector(os.path.join(folder, "part.onnx"))
        >>> parity.n_images, parity.score < 1e-4
        (20, True)
        >>> exported.predict(images[:2])
        array([1, 1])
        """
        from .exporting import export

        return export(self, path, images=images, input=input, notes=notes or {})
