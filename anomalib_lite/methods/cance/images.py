"""CANCE of images: of their pixels, or of the feature maps of a frozen backbone."""

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from ...backbones.backbone import Backbone
from ...backbones.patches import grid_rows, patch_embedding, pool_maps
from ...batches import Batches
from ...data.augment import is_gray
from ...validation import check_finite
from ...workers import map_on
from .composites import CompositeModel, composite_features
from .learning import CompositeLearner, Learned, on_scale_of

if TYPE_CHECKING:
    from .detector import CANCE

_LEAST_STD = 1e-12  # of squared errors: those of rounding
_PATCHES_OF_A_STREAM = 100  # kept of each image where the number of images is unknown


# Snapshots: later set_params calls must not alter a fitted detector.


@dataclass(frozen=True, eq=False)
class PixelModel:
    """Scores and maps of images by an autoencoder of their pixels.

    Attributes
    ----------
    composite : CompositeModel
        Of images (B, C, h, w).
    error_std : float
        Standard deviation of the training images' squared errors.
    """

    composite: CompositeModel
    error_std: float

    def composites(self, batch: torch.Tensor) -> torch.Tensor:
        """Composites (B, latent_dim + 2) of images (B, 3, h, w)."""
        return self.composite.composites(batch)

    def score(self, batch: torch.Tensor) -> torch.Tensor:
        """Anomaly scores (B,) of images (B, 3, h, w)."""
        return self.composite.score(batch)

    def infer(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Anomaly scores (B,) and weighted squared errors (B, h, w) of images (B, 3, h, w)."""
        z, back = self.composite.autoencoder(batch)
        composites = composite_features(batch, z, back)
        errors = (batch - back).square().mean(1)  # (B, h, w)
        grids = errors * self._error_weights(composites)[:, None, None]
        return self.composite.score_composites(composites), grids

    def _error_weights(self, composites):
        """Slope (B,) of the score along the squared error, at least 1 a standard deviation."""
        if self.composite.score_type != "composite":
            return composites.new_ones(len(composites), dtype=torch.float32)
        with torch.enable_grad():
            composites = composites.clone().requires_grad_(True)
            total = self.composite.score_composites(composites).sum()
            (slopes,) = torch.autograd.grad(total, composites)
        return slopes[:, -2].clamp_min(1 / max(self.error_std, _LEAST_STD)).float()


@dataclass(frozen=True, eq=False)
class FeatureMapModel:
    """Scores and maps of images by principal components of their feature maps.

    Attributes
    ----------
    composite : CompositeModel
        Of pooled feature maps (B, D).
    patches : CompositeModel
        Of patch vectors (n, D).
    patch_level : bool
        Whether an image's score is that of its most anomalous patch.
    neighborhood : int
        Side, in cells, of the neighborhood averaged to describe a patch.
    """

    composite: CompositeModel
    patches: CompositeModel
    patch_level: bool
    neighborhood: int

    def composites(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """Composites (B, latent_dim + 2) of the pooled feature maps of B images."""
        return self.composite.composites(pool_maps(maps))

    def score(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """Anomaly scores (B,) of the feature maps of B images."""
        if self.patch_level:
            return self._patch_scores(maps).amax(1)
        return self.composite.score(pool_maps(maps))

    def infer(self, maps: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Anomaly scores (B,) and those of patches (B, h, w) of the feature maps of B images."""
        values = self._patch_scores(maps)
        grids = values.float().view(-1, *maps[0].shape[-2:])
        if self.patch_level:
            return values.amax(1), grids
        return self.composite.score(pool_maps(maps)), grids

    def _patch_scores(self, maps):
        """(B, P)"""
        vectors = patch_vectors(maps, self.neighborhood)
        return self.patches.score(vectors.flatten(0, 1)).view(vectors.shape[:2])


def patch_vectors(maps: list[torch.Tensor], neighborhood: int) -> torch.Tensor:
    """Vectors (B, P, D) of the patches of B images."""
    return grid_rows(patch_embedding(maps, neighborhood=neighborhood))


# -- learning -------------------------------------------------------------------------------------


def learn_pixels(
    params: "CANCE", batches: Batches, generator: torch.Generator
) -> tuple[PixelModel, Learned]:
    """Learn from images, in one channel if none has any color."""
    images = torch.cat([batch.clone() for _, batch in batches])  # (n, 3, h, w)
    if is_gray(images):
        images = images[:, :1].contiguous()
    learned = CompositeLearner(params, generator).learn(images)
    return PixelModel(learned.model, float(learned.composites[:, -2].std())), learned


def learn_feature_maps(
    params: "CANCE",
    backbone: Backbone,
    batches: Batches,
    n_images: int | None,
    generator: torch.Generator,
) -> tuple[FeatureMapModel, Learned]:
    """Learn from the pooled feature maps of images, and from a sample of their patches."""
    seen = _FeatureMaps(params, n_images, generator)
    for images, (batch, maps) in batches.map(lambda batch: (batch, backbone(batch))):
        seen.add(images, batch, maps)
    learned = CompositeLearner(params, generator).learn(torch.cat(seen.pooled))
    learner = CompositeLearner(params, generator)
    patches = torch.stack(seen.patches)  # (n, m, D)
    pairs = learner.folds(patches) if params.patch_level else []
    of_patches, *others = learner.fit_each(
        [partial(seen.sample, patches), *(partial(seen.sample, patches[fit]) for fit, _ in pairs)]
    )
    model = FeatureMapModel(learned.model, of_patches, params.patch_level, params.neighborhood)
    if params.patch_level:
        scores = np.empty(len(patches))
        of_all = of_patches.score(patches.flatten(0, 1)).view(patches.shape[:2])
        for (fit, held_out), patch_model in zip(pairs, others, strict=True):
            other = replace(model, patches=patch_model)
            worst = map_on(
                params.device_, lambda i, m=other: m.score(backbone(seen.batches[i])), held_out
            )
            own = patch_model.score(patches[fit].flatten(0, 1))
            scores[held_out] = on_scale_of(of_all[fit].flatten(), own, torch.cat(worst)).cpu()
        learned = learned._replace(anomaly_scores=scores)
    return model, learned


class _FeatureMaps:
    """What is kept of the images that a backbone reads.

    Attributes
    ----------
    pooled : list of torch.Tensor of shape (B, D)
        Pooled feature maps.
    patches : list of torch.Tensor of shape (m, D)
        Of each image, patches drawn at random.
    batches : list of torch.Tensor of shape (1, 3, h, w)
        Each image, if patches are to give its score.
    """

    def __init__(self, params, n_images, generator):
        self._params, self._generator = params, generator
        self._n_kept = (
            _PATCHES_OF_A_STREAM if n_images is None else -(-params.n_patches // n_images)
        )
        self.pooled, self.patches, self.batches = [], [], []

    def add(self, images, batch, maps):
        """Take images by their network input (B, 3, h, w) and feature maps (B, C, h, w)."""
        pooled = pool_maps(maps).clone()
        check_finite(pooled, images)
        self.pooled.append(pooled)
        for vectors in patch_vectors(maps, self._params.neighborhood):  # (P, D)
            self.patches.append(_drawn(vectors, self._n_kept, self._generator).clone())
        if self._params.patch_level:
            self.batches += batch.split(1)

    def sample(self, patches, generator):
        """Rows (n_patches, D), or as many as there are, drawn from patches (n, m, D)."""
        return _drawn(patches.flatten(0, 1), self._params.n_patches, generator)


def _drawn(rows, n, generator):
    order = torch.randperm(len(rows), generator=generator, device="cpu")
    return rows[order[:n].to(rows.device)]
