"""A gradient search for images that a detector finds normal: its blind spots."""

from typing import NamedTuple

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from ..annotations import Images
from ..base import BaseDetector
from ..contexts import plain
from ..data.images import CheckedImage
from ..data.scales import ScaleCheck
from ..runtime import progress
from ..validation import check_count, check_number


class Probe(NamedTuple):
    """Images found by :func:`probe`, and their scores.

    Attributes
    ----------
    images : ndarray of shape (n_images, H, W) or (n_images, H, W, 3)
        Float32 in [0, 1]: where the search ended.
    scores : ndarray of shape (n_images,)
        As ``score_samples`` of ``images``: lower = more anomalous.
    path : ndarray of shape (max_iter + 1, n_images)
        Scores before each step and after the last.
    """

    images: np.ndarray
    scores: np.ndarray
    path: np.ndarray


@plain
@torch.enable_grad()
def probe(
    detector: BaseDetector,
    starts: Images,
    *,
    max_iter: int = 200,
    learning_rate: float = 0.01,
    pull_away: float = 0.1,
    verbose: bool = False,
) -> Probe:
    r"""Change images by gradient descent until a detector finds them normal.

    Pixels follow the gradient of the anomaly score :math:`S` by Adam and are clipped to [0, 1]
    after each step. If the images found do not look normal, the detector is blind to what is wrong
    with them. To find different images, the search minimizes

    .. math::
        \frac{1}{n} \sum_i S(x_i) + \frac{\alpha}{n (n - 1)} \sum_{i \neq j}
        \left( \frac{x_i \cdot x_j}{|x_i| |x_j|} \right)^2

    whose second term pulls images away from one another.

    Parameters
    ----------
    detector : fitted detector of images
        Any whose ``_score`` PyTorch can differentiate. It is not changed.
    starts : array, tensor, list, folder, Dataset, DataLoader or iterable
        Images of one size to start from; see :mod:`anomalib_lite.data.images`. The more varied, the
        better: noise, other objects, damaged normal images.
    max_iter : int, default=200
        Number of gradient steps.
    learning_rate : float, default=0.01
        Learning rate of Adam: about how far a pixel moves in a step.
    pull_away : float, default=0.1
        Weight of the second term, in units of the distance from the median score of the starts to
        that of the detector's ``calibration_scores_``, so that it means the same for every
        detector. With 0, images do not affect one another.
    verbose : bool, default=False
        Show a progress bar.

    Returns
    -------
    found : Probe
        Named tuple (images, scores, path).

    Raises
    ------
    ValueError
        If the score has no gradient, as part of it is computed outside PyTorch (by scikit-learn or
        ONNX Runtime), or if a start is invalid.

    Notes
    -----
    The gradient passes through the resizing and normalization before the network. Where the score
    is flat, as at a distance of exactly 0, an image stays where it is.

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
    >>> found = probe(detector, rng.random((2, 64, 64)), max_iter=5)
    >>> found.images.shape, bool((found.scores > found.path[0]).all())
    ((2, 64, 64), True)
    """
    check_count("max_iter", max_iter)
    check_number("learning_rate", learning_rate, minimum=0)
    check_number("pull_away", pull_away, minimum=0)
    images = _read(detector, starts)
    # each image a leaf of its own: they pass through the network one by one, as in scoring
    pixels = [image.pixels.to(detector.device_).requires_grad_() for image in images]
    # gradients of saturated scores are tiny, but they still point the way
    optimizer = torch.optim.Adam(pixels, lr=learning_rate, eps=1e-12)
    path, weight = [], 0.0
    for step in progress(range(max_iter), desc="probe", verbose=verbose):
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


def pull_away_term(images: torch.Tensor) -> torch.Tensor:
    """Mean squared cosine of the angle between two images, over all pairs.

    Parameters
    ----------
    images : torch.Tensor of shape (n, ...)
        At least two.

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
    """The starts as a list of CheckedImage; checks them, and that the detector scores images."""
    if not isinstance(detector, BaseDetector):
        raise ValueError(
            f"detector: expected a detector of images, got {type(detector).__name__}. If it wraps "
            "a detector, pass that one."
        )
    check_is_fitted(detector)
    if detector.input_ is None:
        raise ValueError("detector: it was fitted on a table. Expected one fitted on images.")
    images, scale = list(detector._open(starts)), ScaleCheck(detector.value_range_)
    for image in images:
        scale.see(image)
        if image.pixels.shape != images[0].pixels.shape:
            raise ValueError(
                f"{image.label}: its shape is {tuple(image.pixels.shape)}, that of image 0 "
                f"{tuple(images[0].pixels.shape)}. Expected starts of one size."
            )
    scale.finish()
    return images


def _descend(detector, images, pixels):
    """Anomaly scores of images; leaves their gradients with the pixels."""
    scores = []
    for image, one in zip(images, pixels, strict=True):
        try:
            score = _score(detector, image, one)
        except RuntimeError as error:
            if "requires grad" in str(error):  # NumPy was given a differentiable tensor
                raise ValueError(_no_gradient(detector)) from error
            raise
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
        f"detector: the score of this {type(detector).__name__} has no gradient, as part of it is "
        "computed outside PyTorch, or without gradients. Expected a detector whose _score consists "
        "of differentiable PyTorch operations; where there is a parameter engine, 'torch'."
    )
