"""SPADE: the nearest normal images, then the nearest patches among them."""

import warnings

import torch

from ..backbones.backbone import Backbone
from ..backbones.patches import grid_rows, patch_embedding, rebatch
from ..base import BaseDetector
from ..runtime import exact_dtype, parse_memory
from ..search.nearest import CHUNK, NearestRows, PrincipalCodes, squared_distance
from ..validation import check_choice, check_count, check_enough, check_finite

BANK_DTYPES = {"float32": torch.float32, "float16": torch.float16}
_BLOCK = 8  # images stored together; the first block sets the codes of the bank
_QUERIES = 784  # patches searched for together


class SPADE(BaseDetector):
    """SPADE: deep pyramid correspondences with the most similar normal images.

    An image is as anomalous as the mean distance of its pooled deep features to those of the
    ``n_neighbors`` nearest normal images. A pixel is as anomalous as the distance of its feature
    pyramid, shallow layers concatenated on the finest grid, to the nearest pyramid vector anywhere
    in these same images: a part that is where no similar image has one stands out.

    Parameters
    ----------
    backbone : str or nn.Module, default="efficientnet_lite0"
        The default has ImageNet weights that come with the installation; see
        :class:`~anomalib_lite.backbones.Backbone`.
    layers : sequence, default=(4, 8, 16, 32)
        Strides, transformer blocks, or module names, two at least. The last (deepest) is pooled to
        retrieve images, the others make the pyramid.
    weights : {"pretrained", "random"} or path, default="pretrained"
    n_neighbors : int, default=50
        Images retrieved; all there are, where there are fewer.
    bank_dtype : {"float32", "float16"}, default="float32"
        In which the pyramids of the normal images are kept; "float16" takes half the memory and
        rounds features to three digits.
    memory_budget : int, str or None, default="4GB"
        Bytes, or text such as ``"500MB"``, for these pyramids. As many of the first images as fit
        keep theirs, with a warning; the others count for image scores only.
    image_size : int, tuple (H, W) or None, default=None
        Images are resized to it, whatever their proportions. None: the backbone's own (224).
    center_crop : int, tuple (H, W) or None, default=None
        What to keep of the resized image.
    smoothing : float, default=4.0
        Standard deviation of the maps' Gaussian blur, in pixels of the resized image.
    false_alarm_rate : float, default=0.01
        Share of normal images that ``predict`` may call anomalous, as far as the normal images of
        ``fit`` can tell.
    batch_size : int, default=32
        Images that pass through the network together on an accelerator.
    device : str or torch.device, default="auto"
    engine : {"torch", "onnxruntime"}, default="torch"
        What runs the network; see :class:`~anomalib_lite.backbones.Backbone`.
    dtype : {"auto", "float32", "float16", "bfloat16"}, default="auto"
        Precision of the network.
    random_state : None, int, RandomState or Generator, default=None
        Draws random weights.
    verbose : bool, default=False
        Show progress bars.

    Attributes
    ----------
    embeddings_ : torch.Tensor of shape (n_images, D_deep)
        Pooled features of the normal images.
    pyramids_ : NearestRows
        Pyramid vectors, image by image, each image's padded with copies of its last one to a
        multiple of 64 rows.
    n_pyramids_ : int
        How many of the first images have theirs in it.
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
    compares 3,136 vectors with 156,800 of the 50 images retrieved, which takes a good part of a
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
        backbone="efficientnet_lite0",
        *,
        layers=(4, 8, 16, 32),
        weights="pretrained",
        n_neighbors=50,
        bank_dtype="float32",
        memory_budget="4GB",
        image_size=None,
        center_crop=None,
        smoothing=4.0,
        false_alarm_rate=0.01,
        batch_size=32,
        device="auto",
        engine="torch",
        dtype="auto",
        random_state=None,
        verbose=False,
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
        self._n_neighbors_ = self.n_neighbors
        return self.backbone_.input

    def _learn(self, batches, n_images, generator):
        embeddings = []
        for pyramids in rebatch(self._pyramids(batches, embeddings), _BLOCK):
            self._store(pyramids, n_images)
        self.embeddings_ = torch.cat(embeddings)
        n_seen = len(self.embeddings_)
        check_enough(n_seen, 2, "scores of each image against the others")
        if self.n_pyramids_ < n_seen:
            warnings.warn(
                f"memory_budget={self.memory_budget!r} has room for the pyramids of the first "
                f"{self.n_pyramids_} of {n_seen} images; maps are made with these.",
                stacklevel=2,
            )
        return self._left_out_scores()

    def _pyramids(self, batches, embeddings):
        """Padded pyramid rows (B, P, D); what retrieves their images joins ``embeddings``."""
        for images, batch in batches:
            embedding, rows, _ = self._embed(batch)
            check_finite(torch.cat([embedding, rows.flatten(1)], 1), images)
            embeddings.append(embedding)
            padding = rows[:, -1:].expand(-1, -rows.shape[1] % CHUNK, -1)
            yield torch.cat([rows, padding], 1).to(BANK_DTYPES[self.bank_dtype])

    def _store(self, pyramids, n_images):
        """Put the rows (B, P, D) of some images into the bank, as far as there is room."""
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

    def _left_out_scores(self):
        """Anomaly score of each training image against the others."""
        scores = []
        for image, embedding in enumerate(self.embeddings_):
            others = torch.cat([self.embeddings_[:image], self.embeddings_[image + 1 :]])
            scores.append(self._mean_distance(squared_distance(others, embedding)))
        return torch.stack(scores).cpu()

    def _mean_distance(self, apart):
        """Mean of the smallest of some squared distances (n,)."""
        nearest = apart.topk(min(self._n_neighbors_, len(apart)), largest=False).values
        return nearest.sqrt().mean()

    def _image_scores(self, embedding):
        """Anomaly scores (B,) and squared distances (B, n_images) to the normal images."""
        apart = torch.stack([squared_distance(self.embeddings_, one) for one in embedding])
        return torch.stack([self._mean_distance(one) for one in apart]), apart

    def _score(self, batch):
        deep = self.backbone_.trainable_maps(batch)[-1]
        return self._image_scores(deep.mean((2, 3)))[0]

    def _infer(self, batch):
        embedding, rows, grid = self._embed(batch)
        scores, apart = self._image_scores(embedding)
        values = []
        for image_rows, to_images in zip(rows, apart[:, : self.n_pyramids_], strict=True):
            retrieved = to_images.argsort(stable=True)[: self._n_neighbors_]
            values.append(self._correspondence(image_rows, retrieved.tolist()))
        return scores, torch.stack(values).float().unflatten(1, grid)

    def _correspondence(self, rows, retrieved):
        """Distances of rows (P, D) to the nearest pyramid vector of the images retrieved."""
        n_padded = self.pyramids_.n_stored // self.n_pyramids_
        nearest = rows.new_full((len(rows),), torch.inf, dtype=exact_dtype(rows.device))
        codes = self.pyramids_.codes.encode(rows)
        for part in torch.arange(len(rows), device=rows.device).split(_QUERIES):
            near = nearest[part]
            for image in retrieved:
                first = image * n_padded
                self.pyramids_.tighten(
                    rows[part], codes[part], near, first=first, last=first + n_padded
                )
            nearest[part] = near
        return nearest.sqrt()
