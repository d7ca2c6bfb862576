"""SPADE: the nearest normal images, then the nearest patches among them."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..annotations import Device, Path, RandomState, Size
from ..backbones.backbone import Backbone
from ..backbones.patches import grid_rows, patch_embedding, rebatch
from ..base import BaseDetector
from ..merging import MergeMixin
from ..runtime import parse_memory
from ..search.codes import PrincipalCodes
from ..search.distance import squared_distance
from ..search.nearest import NearestRows
from ..search.portable import nearest_portably
from ..validation import check_choice, check_count, check_finite

BANK_DTYPES = {"float32": torch.float32, "float16": torch.float16}
_BLOCK = 8  # images stored together; the first block sets the codes of the bank


@dataclass(frozen=True, eq=False)
class _Pyramids:
    """Pooled deep features (n, D_deep) of images, and pyramid rows (m, P, D) of the first."""

    embeddings: torch.Tensor
    pyramids: torch.Tensor

    def to(self, device):
        return _Pyramids(self.embeddings.to(device), self.pyramids.to(device))


class SPADE(MergeMixin, BaseDetector):
    """SPADE: deep pyramid correspondences with the most similar normal images.

    The score of an image is the mean distance of its pooled deep features to those of the
    ``n_neighbors`` nearest normal images. The anomaly of a pixel is the distance of its feature
    pyramid, shallow layers concatenated on the finest grid, to the nearest pyramid vector anywhere
    in these same images: a part that no similar image shows stands out.

    Parameters
    ----------
    backbone : str or nn.Module, default="efficientnet_lite0"
        The network; see :class:`~anomalib_lite.backbones.Backbone`. The default has ImageNet
        weights that come with the installation.
    layers : sequence, "last" or None, default=(4, 8, 16, 32)
        Strides, transformer blocks or module names of the feature maps to use. The last (deepest)
        is pooled to retrieve images, the others make the pyramid: two at least.
    weights : {"pretrained", "random"} or path, default="pretrained"
        Where the network's weights come from.
    n_neighbors : int, default=50
        Number of images retrieved; all there are, where there are fewer.
    bank_dtype : {"float32", "float16"}, default="float32"
        In which the pyramids of the normal images are stored; "float16" takes half the memory and
        rounds features to three digits.
    memory_budget : int, str or None, default="4GB"
        Memory that fitting may use for what it stores of images, in bytes or as ``"500MB"``; None
        for no limit. It covers the pyramids: as many of the first images as fit keep theirs, with a
        warning; the others count for image scores only.
    image_size : int, tuple (H, W) or None, default=None
        Images are resized to it, whatever their proportions. None: the backbone's own (224).
    center_crop : int, tuple (H, W) or None, default=None
        Part of the resized image to keep.
    smoothing : float, default=4.0
        Standard deviation of the maps' Gaussian blur, in pixels of the resized image.
    false_alarm_rate : float, default=0.01
        Share of normal images that ``predict`` may call anomalous, as far as the normal images of
        ``fit`` can tell.
    batch_size : int, default=32
        Images that pass through the network together on an accelerator; on a CPU each passes alone.
    n_jobs : int or None, default=None
        Number of workers; None is as many as there are processors that this process may use, up
        to four, and -1 all. Results do not depend on it.
    device : str or torch.device, default="auto"
        Where tensors live; ``"auto"`` is CUDA if available, else the CPU.
    engine : {"torch", "onnxruntime", "auto"}, default="torch"
        What runs the network; ONNX Runtime is about twice as fast, on a CPU only, and needs the
        extra ``onnx``. ``"auto"`` takes it where it is installed and runs the network.
    dtype : {"auto", "float32", "float16", "bfloat16"}, default="auto"
        Precision of the network; ``"auto"``: float16 on CUDA, float32 elsewhere.
    random_state : None, int, RandomState or Generator, default=None
        Seed of everything random. It draws random weights.
    verbose : bool, default=False
        Show progress bars.

    Attributes
    ----------
    embeddings_ : torch.Tensor of shape (n_images, D_deep)
        Pooled features of the normal images.
    pyramids_ : NearestRows
        Pyramid vectors, image by image.
    n_pyramids_ : int
        Number of images, the first ones, whose pyramid vectors are stored.
    calibration_scores_ : ndarray of shape (n_images,)
        ``score_samples`` of each training image against the others.
    offset_ : float
        The ``false_alarm_rate`` quantile of these: the threshold of ``predict``.
    n_images_ : int
    backbone_ : Backbone
    device_ : torch.device

    Notes
    -----
    Scores and maps are Euclidean distances between features (not squared), the former of pooled
    ones and a mean over images, so the two are not on one scale. Both are exact.

    With the defaults an image's pyramid has 56 x 56 vectors of 176 numbers: about 3 MB with the
    search codes, 600 MB for 200 images, two thirds of that with ``bank_dtype="float16"``. A map
    compares 3,136 vectors with the 156,800 of the 50 retrieved images, which takes a good part of a
    second on a laptop; scores alone need no pyramid and are quick.

    References
    ----------
    N. Cohen, Y. Hoshen, "Sub-Image Anomaly Detection with Deep Pyramid Correspondences",
    arXiv:2005.02357 (2020).

    Examples
    --------
    >>> import numpy as np
    >>> from anomalib_lite import SPADE
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.integers(90, 110, size=(8, 64, 64), dtype=np.uint8)
    >>> odd = normal[:2].copy()
    >>> odd[:, 20:40, 20:40] = 255
    >>> detector = SPADE(image_size=64, random_state=0).fit(normal)
    >>> detector.predict(odd)
    array([-1, -1])
    """

    def __init__(
        self,
        backbone: str | nn.Module = "efficientnet_lite0",
        *,
        layers: Sequence[int | str] | str | None = (4, 8, 16, 32),
        weights: Path = "pretrained",
        n_neighbors: int = 50,
        bank_dtype: str = "float32",
        memory_budget: int | str | None = "4GB",
        image_size: Size | None = None,
        center_crop: Size | None = None,
        smoothing: float = 4.0,
        false_alarm_rate: float = 0.01,
        batch_size: int = 32,
        n_jobs: int | None = None,
        device: Device = "auto",
        engine: str = "torch",
        dtype: str = "auto",
        random_state: RandomState = None,
        verbose: bool = False,
    ):
        self.backbone = backbone
        self.layers = layers
        self.weights = weights
        self.n_neighbors = n_neighbors
        self.bank_dtype = bank_dtype
        self.memory_budget = memory_budget
        self.image_size = image_size
        self.center_crop = center_crop
        self.smoothing = smoothing
        self.false_alarm_rate = false_alarm_rate
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.device = device
        self.engine = engine
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose

    def _check_params(self):
        check_count("n_neighbors", self.n_neighbors)
        check_choice("bank_dtype", self.bank_dtype, BANK_DTYPES)
        parse_memory("memory_budget", self.memory_budget)

    def _build(self, generator):
        self.backbone_ = Backbone.for_estimator(self, generator)
        if len(self.backbone_.n_channels) < 2:
            raise ValueError(
                "layers: expected two at least, for the pyramid and for retrieval, got "
                f"{self.layers!r}."
            )
        # Snapshot: later set_params calls must not alter a fitted detector
        self._n_neighbors_ = self.n_neighbors
        return self.backbone_.input

    def _learn(self, batches, n_images, generator):
        embeddings = []
        for pyramids in rebatch(self._pyramids(batches, embeddings), _BLOCK):
            self._store(pyramids, n_images)
        return self._end(torch.cat(embeddings))

    def _learn_part(self, batches, n_images, portion):
        embeddings, kept, room = [], [], None
        for pyramids in self._pyramids(batches, embeddings):
            room = max(0, self._most(pyramids) - portion.first) if room is None else room
            kept.append(pyramids[:room])
            room -= len(kept[-1])
        return _Pyramids(torch.cat(embeddings), torch.cat(kept))

    def _merge_parts(self, parts, generator):
        pyramids = torch.cat([part.pyramids for part in parts])
        return _Pyramids(
            torch.cat([part.embeddings for part in parts]), pyramids[: self._most(pyramids)]
        )

    def _finish_part(self, part, generator):
        for pyramids in part.pyramids.split(_BLOCK):
            self._store(pyramids, len(part.embeddings))
        return self._end(part.embeddings)

    def _most(self, pyramids):
        """Images whose pyramids, like those of some (n, P, D), the budget may have room for."""
        budget = parse_memory("memory_budget", self.memory_budget)
        return max(1, budget // pyramids[0].nbytes)

    def _end(self, embeddings):
        """Take over the embeddings (n, D_deep) of all images; gives their scores, each left out."""
        self.embeddings_ = embeddings
        n_seen = len(embeddings)
        if self.n_pyramids_ < n_seen:
            warnings.warn(
                f"memory_budget={self.memory_budget!r} has room for the pyramids of the first "
                f"{self.n_pyramids_} of {n_seen} images; maps are made with these.",
                stacklevel=2,
            )
        return self._leave_one_out_scores()

    def _pyramids(self, batches, embeddings):
        """Pyramid rows (B, P, D); appends the images' pooled features to ``embeddings``."""
        for images, (embedding, rows, _) in batches.map(self._embed):
            check_finite(torch.cat([embedding, rows.flatten(1)], 1), images)
            embeddings.append(embedding)
            yield rows.to(BANK_DTYPES[self.bank_dtype])

    def _store(self, pyramids, n_images):
        """Store the rows (B, P, D) of some images, as far as there is room."""
        n_rows = pyramids.shape[1]
        if not hasattr(self, "pyramids_"):
            codes = PrincipalCodes(pyramids.flatten(0, 1).float())
            image_bytes = pyramids[0].nbytes + 4 * n_rows * (codes.n_codes + 1)
            self._room_ = max(1, parse_memory("memory_budget", self.memory_budget) // image_bytes)
            capacity = min(n_images or len(pyramids), self._room_) * n_rows
            self.pyramids_ = NearestRows(codes, capacity, pyramids.dtype)
            self.n_pyramids_ = 0
        kept = pyramids[: self._room_ - self.n_pyramids_]
        self.pyramids_.append(kept.flatten(0, 1))
        self.n_pyramids_ += len(kept)

    def _embed(self, batch):
        """Pooled deep features (B, D_deep), pyramid rows (B, P, D) and their grid (h, w)."""
        *pyramid, deep = self.backbone_(batch)
        embedding = patch_embedding(pyramid, neighborhood=1)
        return deep.mean((2, 3)), grid_rows(embedding), embedding.shape[-2:]

    def _leave_one_out_scores(self):
        """Anomaly score of each training image against the others."""
        scores = []
        for image, embedding in enumerate(self.embeddings_):
            others = self.embeddings_[self._others(image)]
            scores.append(self._mean_distance(squared_distance(others, embedding)))
        return torch.stack(scores).cpu()

    def _others(self, image):
        """Which of the normal images are not copies of one of them, a mask (n_images,)."""
        distinct = torch.from_numpy(self._distinct()).to(self.embeddings_.device)
        return distinct != distinct[image]

    def _mean_distance(self, squares):
        """Mean distance to the nearest of some images, from their squared distances (n,)."""
        nearest = squares.topk(min(self._n_neighbors_, len(squares)), largest=False).values
        return nearest.sqrt().mean()

    def _image_scores(self, embedding):
        """Anomaly scores (B,) and squared distances (B, n_images) to the normal images."""
        squares = torch.stack([squared_distance(self.embeddings_, one) for one in embedding])
        return torch.stack([self._mean_distance(one) for one in squares]), squares

    def _score(self, batch):
        deep = self.backbone_.trainable_maps(batch)[-1]
        return self._image_scores(deep.mean((2, 3)))[0]

    def _infer(self, batch):
        embedding, rows, grid = self._embed(batch)
        scores, squares = self._image_scores(embedding)
        return scores, self._grids(rows, squares, grid)

    def _infer_portably(self, batch):
        embedding, (rows,), grid = self._embed(batch)
        scores, squares = self._image_scores(embedding)
        n_retrieved = min(self._n_neighbors_, self.n_pyramids_)
        retrieved = squares[0, : self.n_pyramids_].topk(n_retrieved, largest=False).indices
        pyramids = self.pyramids_.rows.unflatten(0, (self.n_pyramids_, -1))  # (n, P, D)
        distance, _ = nearest_portably(rows, pyramids[retrieved], rows.mean(0))
        return scores, distance.float().view(1, *grid)

    def _normal_grids(self, batch, indices):
        embedding, rows, grid = self._embed(batch)
        _, squares = self._image_scores(embedding)
        for i, to_images in zip(indices, squares, strict=True):
            others = self._others(i)
            if others[: self.n_pyramids_].any():
                to_images[~others] = torch.inf
        return self._grids(rows, squares, grid)

    def _grids(self, rows, squares, grid):
        """Grids of pyramids (B, P, D) of images at squared distances (B, n) to the normal ones."""
        values = []
        for image_rows, to_images in zip(rows, squares[:, : self.n_pyramids_], strict=True):
            retrieved = to_images.argsort(stable=True)[: self._n_neighbors_]
            retrieved = retrieved[to_images[retrieved].isfinite()]
            values.append(self._correspondence(image_rows, retrieved.tolist()))
        return torch.stack(values).float().unflatten(1, grid)

    def _correspondence(self, rows, retrieved):
        """Distances of rows (P, D) to the nearest pyramid vector of the retrieved images."""
        n_rows = self.pyramids_.n_stored // self.n_pyramids_  # of an image
        ranges = [(image * n_rows, (image + 1) * n_rows) for image in retrieved]
        return self.pyramids_.query(rows, ranges=ranges)[0]
