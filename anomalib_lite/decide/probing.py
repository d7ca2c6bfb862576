"""Where a detector is blind: a search for images that it finds normal."""

from typing import NamedTuple

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from ..base import BaseDetector
from ..data.images import CheckedImage
from ..runtime import progress
from ..validation import check_count, check_number


class Probe(NamedTuple):
    """What a search found.

    Attributes
    ----------
    images : ndarray of shape (n_images, H, W) or (n_images, H, W, 3)
        float32 in [0, 1]: where the search ended.
    scores : ndarray of shape (n_images,)
        As ``score_samples`` of ``images``: lower = more anomalous.
    path : ndarray of shape (steps + 1, n_images)
        The same on the way, from ``starts`` on.
    """

    images: np.ndarray
    scores: np.ndarray
    path: np.ndarray


@torch.inference_mode(False)
def probe(detector, starts, *, steps=200, learning_rate=0.01, pull_away=0.1, verbose=False):
    r"""Change images until a detector finds them normal.

    Their pixels follow the gradient of the anomaly score :math:`S` by Adam, and are clipped to
    [0, 1] after each step. If what comes out does not look normal, the detector is blind to what
    is wrong with it. To find more than one such image the search minimizes

    .. math::
        \frac{1}{n} \sum_i S(x_i) + \frac{\alpha}{n (n - 1)} \sum_{i \neq j}
        \left( \frac{x_i \cdot x_j}{|x_i| |x_j|} \right)^2

    whose second part pulls images away from one another.

    Parameters
    ----------
    detector : fitted detector
        One whose scores PyTorch can differentiate: MLSAD, CANCE, CPC, PatchCore, PaDiM, SPADE.
        It stays exactly as it is.
    starts : array, tensor, list, folder, Dataset, DataLoader or iterable
        Where to start, of one size; see :mod:`anomalib_lite.data.images`. The more kinds, the
        better: noise, other objects, normal images that were spoilt.
    steps : int, default=200
    learning_rate : float, default=0.01
        Of Adam: about how far a pixel moves in a step.
    pull_away : float, default=0.1
        Weight of the second part. Its unit is the distance from the median score of the starts to
        that of the images by which the detector's threshold was set, which makes it mean the same
        for every detector. With 0 each image goes its own way, whatever the others do.
    verbose : bool, default=False
        Show a progress bar.

    Returns
    -------
    found : Probe
        Named tuple (images, scores, path).

    Raises
    ------
    ValueError
        If the detector's score has no gradient, since part of it is computed outside of PyTorch
        (by scikit-learn, or by ONNX Runtime), or a start is not what it should be.

    Notes
    -----
    The search sees what the detector sees: through the resizing and normalization before its
    network. Where the score is flat, as at a distance of exactly 0, an image stays where it is.

    References
    ----------
    S. Dai et al., "Unsupervised Learning of Multi-level Structures for Anomaly Detection", 2021,
    section 4.3. J. Zhao, M. Mathieu, Y. LeCun, "Energy-based Generative Adversarial Network", ICLR
    2017, for the second part.

    Examples
    --------
    >>> import numpy as np
    >>> from anomalib_lite import PaDiM
    >>> from anomalib_lite.decide import probe
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.integers(90, 110, (8, 64, 64), dtype=np.uint8)
    >>> detector = PaDiM(image_size=64, random_state=0).fit(normal)
    >>> found = probe(detector, rng.random((2, 64, 64)), steps=5)
    >>> found.images.shape, bool((found.scores > found.path[0]).all())
    ((2, 64, 64), True)
    """
    check_count("steps", steps)
    check_number("learning_rate", learning_rate, minimum=0)
    check_number("pull_away", pull_away, minimum=0)
    images = _read(detector, starts)
    # each image a leaf of its own: they pass through the network one by one, as in scoring
    pixels = [image.pixels.to(detector.device_).requires_grad_() for image in images]
    # gradients of saturated scores are tiny, but tell the direction
    optimizer = torch.optim.Adam(pixels, lr=learning_rate, eps=1e-12)
    path, weight = [], 0.0
    with torch.enable_grad():
        for step in progress(range(steps), desc="probe", verbose=verbose):
            path.append(_descend(detector, images, pixels))
            if step == 0 and pull_away and len(pixels) > 1:
                usual = np.nanmedian(-detector.calibration_scores_)
                weight = pull_away * abs(float(np.median(path[0])) - usual)
            if weight:
                (weight * len(pixels) * pull_away_term(torch.stack(pixels))).backward()
            for one in pixels:
                one.grad.nan_to_num_(0.0, 0.0, 0.0)  # of a square root at 0
            optimizer.step()
            with torch.no_grad():
                for one in pixels:
                    one.clamp_(0, 1)
            optimizer.zero_grad()
    with torch.no_grad():
        path.append([float(_score(detector, *pair)) for pair in zip(images, pixels, strict=True)])
    found = torch.stack(pixels).detach().movedim(1, -1).cpu().numpy()  # (n, H, W, C)
    path = -np.array(path)
    return Probe(found[..., 0] if found.shape[-1] == 1 else found, path[-1], path)


def pull_away_term(images):
    """Mean squared cosine of the angles between any two images.

    Parameters
    ----------
    images : torch.Tensor of shape (n, ...)
        Two at least.

    Returns
    -------
    term : torch.Tensor of shape ()

    Examples
    --------
    >>> float(pull_away_term(torch.eye(3)))
    0.0
    """
    rows = torch.nn.functional.normalize(images.flatten(1))
    n = len(rows)
    squares = (rows @ rows.T).square()
    return (squares.sum() - squares.diagonal().sum()) / (n * (n - 1))


def _read(detector, starts):
    """The starts as a list of CheckedImage, once they and the detector were found to be fit."""
    if not isinstance(detector, BaseDetector):
        raise ValueError(
            f"detector: expected a detector of images, got {type(detector).__name__}. Pass what "
            "it stands on, if it has one."
        )
    check_is_fitted(detector)
    if detector.input_ is None:
        raise ValueError("detector: it was fitted on a table. Expected one fitted on images.")
    images = list(detector._open(starts))
    for image in images:
        detector.value_range_.check(image)
        if image.pixels.shape != images[0].pixels.shape:
            raise ValueError(
                f"{image.label}: its shape is {tuple(image.pixels.shape)}, that of image 0 "
                f"{tuple(images[0].pixels.shape)}. Expected starts of one size."
            )
    return images


def _descend(detector, images, pixels):
    """Anomaly scores of images, whose gradients are left with their pixels."""
    scores = []
    for image, one in zip(images, pixels, strict=True):
        try:
            score = _score(detector, image, one)
        except RuntimeError as error:  # NumPy asked for the values of a differentiable tensor
            raise ValueError(_no_gradient(detector)) from error
        if not score.requires_grad:
            raise ValueError(_no_gradient(detector))
        score.backward(inputs=one)
        scores.append(score.item())
    return scores


def _score(detector, image, pixels):
    """Anomaly score () of an image with these pixels (C, H, W)."""
    seen = CheckedImage(pixels, image.dtype, image.label, image.path)
    return detector._score(detector.input_.batch([seen]))[0]


def _no_gradient(detector):
    return (
        f"detector: the score of this {type(detector).__name__} has no gradient, since part of it "
        "is computed outside of PyTorch. Expected MLSAD, CANCE, CPC, PatchCore, PaDiM or SPADE, "
        "with engine='torch'."
    )
