"""Seeded random views of a batch of images; every image gets draws of its own.

Images are tensors (B, C, H, W) with values in [0, 1] on any device. All draws come from a CPU
generator, so a seed gives the same views on every device. torchvision transforms single images;
the functions here give the same results for a batch whose images differ in their draws.
"""

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv

from ..contexts import OnDevice

TURNS = (0, 1, 2, 3)  # quarter turns
_GRAY = (0.2989, 0.587, 0.114)


def turned(batch: torch.Tensor, turns: Sequence[int]) -> torch.Tensor:
    """Rotate a batch by each of several numbers of quarter turns, counter-clockwise.

    Parameters
    ----------
    batch : torch.Tensor of shape (B, C, S, S)
        Square images.
    turns : sequence of int

    Returns
    -------
    views : torch.Tensor of shape (len(turns) * B, C, S, S)
        All images rotated by ``turns[0]`` first.

    Examples
    --------
    >>> corner = torch.tensor([[[[1, 0], [0, 0]]]])
    >>> turned(corner, (0, 1)).flatten(1)
    tensor([[1, 0, 0, 0],
            [0, 0, 1, 0]])
    """
    return torch.cat([torch.rot90(batch, k, (2, 3)) for k in turns])


def rotated(
    batch: torch.Tensor, degrees: torch.Tensor, *, outside: str = "reflection"
) -> torch.Tensor:
    """Rotate each image about its center by its own angle.

    Parameters
    ----------
    batch : torch.Tensor of shape (B, C, H, W)
        With values of any range.
    degrees : torch.Tensor of shape (B,)
        Counter-clockwise.
    outside : {"reflection", "zeros"}, default="reflection"
        What lies outside of an image: its reflection, or 0.

    Returns
    -------
    views : torch.Tensor of shape (B, C, H, W)

    Examples
    --------
    >>> corner = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    >>> rotated(corner, torch.tensor([90.0])).round().abs()
    tensor([[[[0., 0.],
              [1., 0.]]]])
    """
    height, width = batch.shape[2:]
    angle = degrees.double().deg2rad()
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    rows = cos, -sin * height / width, zero, sin * width / height, cos, zero
    matrix = torch.stack(rows, 1).view(-1, 2, 3).to(batch)
    grid = F.affine_grid(matrix, list(batch.shape), align_corners=False)
    return F.grid_sample(batch, grid, padding_mode=outside, align_corners=False)


# -- SimCLR ---------------------------------------------------------------------------------------


def simclr_views(
    batch: torch.Tensor,
    generator: torch.Generator,
    *,
    min_area: float = 0.5,
    jitter: float = 0.4,
    gray: float = 0.2,
    blur: float = 0.5,
    flip: bool = True,
) -> torch.Tensor:
    """Make a random view of each image: crop, flip, color jitter, gray, blur.

    Parameters
    ----------
    batch : torch.Tensor of shape (B, 3, H, W)
    generator : torch.Generator
        The CPU's.
    min_area : float, default=0.5
        Smallest area of a crop, as a fraction of the image's; its height and width, each as a
        fraction of the image's, have a ratio of 3:4 to 4:3. The crop is resized to the image's
        size.
    jitter : float, default=0.4
        Brightness, contrast and saturation are multiplied by factors in [1 - jitter, 1 + jitter],
        and hue moves by up to jitter / 4 of the color circle, with probability 0.8.
    gray : float, default=0.2
        Probability that a view is gray.
    blur : float, default=0.5
        Probability that a view is blurred by a Gaussian of standard deviation 0.1 to 2 px; see
        :func:`gaussian_blur`.
    flip : bool, default=True
        Flip left to right with probability 0.5.

    Returns
    -------
    views : torch.Tensor of shape (B, 3, H, W)

    References
    ----------
    T. Chen, S. Kornblith, M. Norouzi, G. Hinton, "A Simple Framework for Contrastive Learning of
    Visual Representations", ICML 2020.
    """
    views = _crop(batch, generator, min_area, flip)
    views = _jitter(views, generator, jitter, probability=0.8)
    if not is_gray(views):
        chosen = _chosen(views, gray, generator)
        views = torch.where(chosen, _gray(views).expand_as(views), views)
    chosen = _chosen(views, blur, generator)
    sigma = _uniform(len(views), 0.1, 2.0, generator)
    return torch.where(chosen, gaussian_blur(views, sigma), views)


def _crop(batch, generator, min_area, flip):
    """Each image's own crop, resized to the whole image, by one bilinear sampling."""
    n = len(batch)
    area = _uniform(n, min_area, 1.0, generator)
    widest = (-area.log()).clamp_max(math.log(4 / 3))  # wider or higher crops do not fit
    ratio = (widest * _uniform(n, -1.0, 1.0, generator)).exp()
    # fractions of the image's width and height
    width, height = ((area * r).sqrt().clamp_max(1.0) for r in (ratio, 1 / ratio))
    x, y = ((1 - side) * _uniform(n, -1.0, 1.0, generator) for side in (width, height))
    mirrored = _uniform(n, 0.0, 1.0, generator) < 0.5
    if flip:
        width = torch.where(mirrored, -width, width)
    zero = torch.zeros_like(x)
    matrix = torch.stack([width, zero, x, zero, height, y], 1).view(n, 2, 3).to(batch)
    grid = F.affine_grid(matrix, list(batch.shape), align_corners=False)
    return F.grid_sample(batch, grid, padding_mode="reflection", align_corners=False)


def _jitter(batch, generator, strength, probability=1.0):
    """Brightness, contrast, saturation and hue changed by each image's own factors."""
    n = len(batch)
    factors = _uniform((3, n), max(0.0, 1 - strength), 1 + strength, generator)
    hue = _uniform(n, -strength / 4, strength / 4, generator)
    chosen = _chosen(batch, probability, generator)
    brightness, contrast, saturation = factors.to(batch)[..., None, None, None]
    views = (batch * brightness).clamp(0, 1)
    views = _blend(views, _gray(views).mean((1, 2, 3), keepdim=True), contrast)
    if not is_gray(batch):  # saturation and hue leave gray as it is
        views = _blend(views, _gray(views), saturation)
        with OnDevice("cpu"):  # torchvision makes a table on the default device
            views = torch.stack([
                tv.adjust_hue(view, float(shift)) for view, shift in zip(views, hue, strict=True)
            ])  # fmt: skip
    return torch.where(chosen, views, batch)


def gaussian_blur(batch: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Blur each image by a Gaussian of its own; the kernel spans a tenth of the image.

    Parameters
    ----------
    batch : torch.Tensor of shape (B, C, H, W)
    sigma : torch.Tensor of shape (B,)
        Standard deviations in pixels.

    Returns
    -------
    blurred : torch.Tensor of shape (B, C, H, W)
    """
    n, n_channels, height, width = batch.shape
    radius = max(1, min(height, width) // 20)
    sigma = sigma.to(batch)
    x = torch.arange(-radius, radius + 1, device=batch.device, dtype=batch.dtype)
    kernel = torch.softmax(-0.5 * (x / sigma[:, None]).square(), 1)  # (B, k)
    kernel = kernel.repeat_interleave(n_channels, 0)[:, None]  # (B*C, 1, k)
    padded = F.pad(batch, (radius,) * 4, mode="reflect").flatten(0, 1)[None]
    rows = F.conv2d(padded, kernel[:, :, :, None], groups=n * n_channels)
    return F.conv2d(rows, kernel[:, :, None], groups=n * n_channels).view_as(batch)


# -- CutPaste -------------------------------------------------------------------------------------


def cut_paste(
    batch: torch.Tensor,
    generator: torch.Generator,
    *,
    area: tuple[float, float] = (0.02, 0.15),
    aspect: tuple[float, float] = (0.3, 3.3),
    jitter: float = 0.1,
) -> torch.Tensor:
    """Paste a rectangle of each image, its colors jittered, elsewhere in the same image.

    Parameters
    ----------
    batch : torch.Tensor of shape (B, 3, H, W)
    generator : torch.Generator
        The CPU's.
    area : tuple of float, default=(0.02, 0.15)
        Smallest and largest area of the rectangle, as fractions of the image's.
    aspect : tuple of float, default=(0.3, 3.3)
        Smallest and largest ratio of width to height; its logarithm is uniform.
    jitter : float, default=0.1
        As in :func:`simclr_views`, with probability 1.

    Returns
    -------
    views : torch.Tensor of shape (B, 3, H, W)

    References
    ----------
    C.-L. Li, K. Sohn, J. Yoon, T. Pfister, "CutPaste: Self-Supervised Learning for Anomaly
    Detection and Localization", CVPR 2021.
    """
    n, _, height, width = batch.shape
    areas = _uniform(n, *area, generator) * height * width
    narrowest, widest = map(math.log, aspect)
    ratios = _uniform(n, narrowest, widest, generator).exp()
    sizes = [
        (_side((a / r) ** 0.5, height), _side((a * r) ** 0.5, width))
        for a, r in zip(areas.tolist(), ratios.tolist(), strict=True)
    ]
    places = _uniform((n, 4), 0.0, 1.0, generator).tolist()
    pasted = batch.clone()
    changed = _jitter(batch, generator, jitter)
    for i, ((h, w), (top, left, to, at)) in enumerate(zip(sizes, places, strict=True)):
        top, to = (int(place * (height - h + 1)) for place in (top, to))
        left, at = (int(place * (width - w + 1)) for place in (left, at))
        pasted[i, :, to : to + h, at : at + w] = changed[i, :, top : top + h, left : left + w]
    return pasted


def cut_paste_scar(
    batch: torch.Tensor,
    generator: torch.Generator,
    *,
    width: tuple[int, int] = (2, 16),
    length: tuple[int, int] = (10, 25),
    angle: float = 45.0,
    jitter: float = 0.1,
) -> torch.Tensor:
    """Paste a thin strip of each image, rotated and its colors jittered, elsewhere in it.

    Parameters
    ----------
    batch : torch.Tensor of shape (B, 3, H, W)
    generator : torch.Generator
        The CPU's.
    width, length : tuple of int, default=(2, 16), (10, 25)
        Smallest and largest side of the strip in pixels of the batch, half the image at most.
    angle : float, default=45.0
        Largest rotation in degrees, either way. Half of the strips are horizontal before it, half
        vertical.
    jitter : float, default=0.1
        As in :func:`simclr_views`, with probability 1.

    Returns
    -------
    views : torch.Tensor of shape (B, 3, H, W)

    References
    ----------
    C.-L. Li, K. Sohn, J. Yoon, T. Pfister, "CutPaste: Self-Supervised Learning for Anomaly
    Detection and Localization", CVPR 2021.
    """
    n, _, rows, columns = batch.shape
    limit = max(1, min(rows, columns) // 2)
    thin, long = (
        _uniform(n, low, high + 1, generator).floor().clamp_max(limit)
        for low, high in (width, length)
    )
    turn = _uniform(n, -angle, angle, generator).deg2rad()
    top, left, to, at, stands = _uniform((5, n), 0.0, 1.0, generator)
    h, w = torch.where(stands < 0.5, long, thin), torch.where(stands < 0.5, thin, long)
    cos, sin = turn.cos(), turn.sin()
    half_h, half_w = (h * cos + w * sin.abs()) / 2, (w * cos + h * sin.abs()) / 2  # once rotated
    y, x = half_h + to * (rows - 2 * half_h), half_w + at * (columns - 2 * half_w)  # its center
    top, left = (top * (rows - h + 1)).floor(), (left * (columns - w + 1)).floor()

    def to_device(values):
        return values.to(batch.device)[:, None, None]

    h, w, cos, sin, y, x, top, left = map(to_device, (h, w, cos, sin, y, x, top, left))
    down = torch.arange(rows, device=batch.device)[:, None].float() + 0.5 - y  # (B, H, 1)
    right = torch.arange(columns, device=batch.device).float() + 0.5 - x  # (B, 1, W)
    v, u = down * cos - right * sin + h / 2, right * cos + down * sin + w / 2  # inside the strip
    is_strip = (v >= 0) & (v < h) & (u >= 0) & (u < w)  # (B, H, W)
    source = (top + v.floor()) * columns + left + u.floor()
    source = source.where(is_strip, 0).long().flatten(1)[:, None]  # (B, 1, H*W)
    changed = _jitter(batch, generator, jitter).flatten(2)
    strip = changed.gather(2, source.expand(-1, changed.shape[1], -1)).view_as(batch)
    return torch.where(is_strip[:, None], strip, batch)


def _side(length, limit):
    return min(max(1, round(length)), limit)


# -- windows --------------------------------------------------------------------------------------


def random_windows(batch: torch.Tensor, generator: torch.Generator, size: int) -> torch.Tensor:
    """Cut a square window out of each image, at a position of its own.

    Parameters
    ----------
    batch : torch.Tensor of shape (B, C, H, W)
    generator : torch.Generator
        The CPU's.
    size : int
        Side of the windows in pixels.

    Returns
    -------
    windows : torch.Tensor of shape (B, C, size, size)
    """
    n, _, height, width = batch.shape
    places = _uniform((n, 2), 0.0, 1.0, generator).tolist()
    windows = []
    for image, (top, left) in zip(batch, places, strict=True):
        top, left = int(top * (height - size + 1)), int(left * (width - size + 1))
        windows.append(image[:, top : top + size, left : left + size])
    return torch.stack(windows)


# -- draws and colors ----------------------------------------------------------------------------


def _uniform(shape, low, high, generator):
    shape = (shape,) if isinstance(shape, int) else shape
    draws = torch.rand(*shape, generator=generator, device="cpu", dtype=torch.float32)
    return low + (high - low) * draws


def _chosen(batch, probability, generator):
    """(B, 1, 1, 1), True for each image with that probability."""
    chosen = _uniform(len(batch), 0.0, 1.0, generator) < probability
    return chosen.to(batch.device)[:, None, None, None]


def is_gray(batch: torch.Tensor) -> bool:
    """Whether all images of a batch (B, C, H, W) are gray: their channels are equal."""
    return bool((batch == batch[:, :1]).all())


def _gray(batch):
    """(B, 1, H, W), the luminance."""
    weights = torch.tensor(_GRAY, device=batch.device, dtype=batch.dtype)
    return torch.einsum("bchw,c->bhw", batch, weights)[:, None]


def _blend(a, b, weight):
    return (a * weight + b * (1 - weight)).clamp(0, 1)
