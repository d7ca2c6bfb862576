"""Losses that methods share, each against a slow reading in the tests."""

import math

import torch
from torch.nn import functional as F


def info_nce_loss(queries, keys, *, temperature=0.1, negatives=None, symmetric=False):
    r"""InfoNCE: how hard it is to tell each query's own key from the others, in nats.

    .. math::
        -\frac{1}{B} \sum_i \log \frac{\exp(q_i \cdot k_i / \tau)}
        {\exp(q_i \cdot k_i / \tau) + \sum_j \exp(q_i \cdot n_j / \tau)}

    The negatives :math:`n_j` of a query are the other queries' keys, or those given. Vectors are
    taken as they are: normalize them first for cosines.

    Parameters
    ----------
    queries, keys : torch.Tensor of shape (B, D)
        ``keys[i]`` is the positive of ``queries[i]``.
    temperature : float, default=0.1
        :math:`\tau`, positive.
    negatives : torch.Tensor of shape (M, D) or (B, M, D), or None, default=None
        Shared by all queries, or each query's own. None takes the other keys of the batch.
    symmetric : bool, default=False
        Average with the loss of keys that look for their queries, and let the other queries be
        negatives, too: the loss of SimCLR (NT-Xent). For in-batch negatives only.

    Returns
    -------
    loss : torch.Tensor of shape ()

    Raises
    ------
    ValueError
        If the temperature is not positive, shapes do not fit, or a query has no negative.

    References
    ----------
    A. van den Oord, Y. Li, O. Vinyals, "Representation Learning with Contrastive Predictive
    Coding", 2018. T. Chen, S. Kornblith, M. Norouzi, G. Hinton, "A Simple Framework for
    Contrastive Learning of Visual Representations", ICML 2020.

    Examples
    --------
    >>> rows = torch.eye(4)
    >>> round(float(info_nce_loss(rows, rows, temperature=1.0)), 4)  # log(1 + 3 / e)
    0.7437
    """
    _check_info_nce(queries, keys, temperature, negatives, symmetric)
    if negatives is not None:
        return info_nce_values(queries, keys, negatives, temperature=temperature).mean()
    own = torch.arange(len(queries), device=queries.device)
    if not symmetric:
        return F.cross_entropy(queries @ keys.T / temperature, own)
    both = torch.cat([queries, keys])  # (2B, D)
    odds = both @ both.T / temperature
    odds.fill_diagonal_(-torch.inf)  # nobody is looked for among oneself
    return F.cross_entropy(odds, torch.cat([own + len(own), own]))


def info_nce_values(queries, keys, negatives, *, temperature, chosen=None):
    """The loss (B,) of each query against explicit negatives (M, D) or (B, M, D).

    ``chosen`` (B, m) says which of the shared ones are a query's own.
    """
    positive = (queries * keys).sum(-1, keepdim=True)  # (B, 1)
    if negatives.ndim == 2:
        negative = queries @ negatives.T  # (B, M)
        if chosen is not None:
            negative = negative.gather(1, chosen)
    else:
        negative = torch.einsum("bd,bmd->bm", queries, negatives)
    odds = torch.cat([positive, negative], dim=1) / temperature
    return odds.logsumexp(1) - odds[:, 0]


def nce_loss(data_odds, noise_odds, nu):
    r"""Noise contrastive estimation: how badly data are told from noise, in nats.

    .. math::
        -\frac{1}{B} \sum_i \log \sigma(h_i) - \frac{\nu}{M} \sum_j \log(1 - \sigma(\tilde h_j))

    with each logarithm of a sigmoid taken as a log-sum-exp. Where the odds that minimize it are
    found, :math:`h + \log \nu + \log p_n` is the log-density of the data.

    Parameters
    ----------
    data_odds : torch.Tensor of shape (B,)
        Log-odds :math:`h` "data against noise" of samples of the data.
    noise_odds : torch.Tensor of shape (M,)
        Of samples of the noise.
    nu : float
        Samples of noise for each of the data: positive.

    Returns
    -------
    loss : torch.Tensor of shape ()

    Raises
    ------
    ValueError
        If ``nu`` is not positive.

    References
    ----------
    M. Gutmann, A. Hyvärinen, "Noise-contrastive estimation: A new estimation principle for
    unnormalized statistical models", AISTATS 2010.

    Examples
    --------
    >>> round(float(nce_loss(torch.zeros(4), torch.zeros(8), nu=2)), 4)  # 3 log 2
    2.0794
    """
    if not nu > 0:
        raise ValueError(f"nu: expected a positive number, got {nu!r}.")
    return F.softplus(-data_odds).mean() + nu * F.softplus(noise_odds).mean()


INFORMATION_BOUNDS = ("jensen-shannon", "donsker-varadhan")


def information_bound(joint, product, *, kind="jensen-shannon"):
    r"""How much two things know of one another, at least, by what a network T says of pairs.

    Jensen-Shannon: twice the divergence of that name between pairs that belong together and pairs
    that do not, between 0 and 2 log 2; from

    .. math:: 2 \log 2 - E_{xz}[\mathrm{softplus}(-T)] - E_{x, z}[\mathrm{softplus}(T)]

    Donsker-Varadhan: the mutual information itself, in nats, which has no upper limit and a larger
    variance; from

    .. math:: E_{xz}[T] - \log E_{x, z}[e^T]

    Either is at most its limit, and reaches it where T is the logarithm of how much more likely a
    pair is to belong together than to be put together (plus, for the second, any constant).

    Parameters
    ----------
    joint : torch.Tensor of shape (n,)
        T of pairs that belong together.
    product : torch.Tensor of shape (m,)
        T of pairs put together at random.
    kind : {"jensen-shannon", "donsker-varadhan"}, default="jensen-shannon"

    Returns
    -------
    bound : torch.Tensor of shape ()
        To be raised: its negative is the loss.

    Raises
    ------
    ValueError
        If ``kind`` is neither.

    References
    ----------
    M. I. Belghazi et al., "Mutual Information Neural Estimation", ICML 2018. S. Nowozin, B. Cseke,
    R. Tomioka, "f-GAN: Training Generative Neural Samplers using Variational Divergence
    Minimization", NeurIPS 2016.

    Examples
    --------
    >>> float(information_bound(torch.zeros(4), torch.zeros(4)))  # T that tells nothing
    0.0
    """
    if kind == "jensen-shannon":
        return 2 * math.log(2) - F.softplus(-joint).mean() - F.softplus(product).mean()
    if kind == "donsker-varadhan":
        return joint.mean() - product.logsumexp(0) + math.log(len(product))
    raise ValueError(f"kind: expected one of {INFORMATION_BOUNDS}, got {kind!r}.")


def _check_info_nce(queries, keys, temperature, negatives, symmetric):
    if not temperature > 0:
        raise ValueError(f"temperature: expected a positive number, got {temperature!r}.")
    if queries.ndim != 2 or queries.shape != keys.shape:
        raise ValueError(
            "expected queries and keys of one shape (B, D), got "
            f"{tuple(queries.shape)} and {tuple(keys.shape)}."
        )
    if negatives is None:
        if len(queries) < 2:
            raise ValueError("one query in a batch has no negatives. Give negatives.")
        return
    if symmetric:
        raise ValueError("symmetric: explicit negatives belong to queries alone.")
    n, d = queries.shape
    fits = negatives.shape[-1] == d and (
        negatives.ndim == 2 or (negatives.ndim == 3 and len(negatives) == n)
    )
    if not (fits and negatives.shape[-2] > 0):
        raise ValueError(
            f"negatives: expected (M, {d}) or ({n}, M, {d}), got {tuple(negatives.shape)}."
        )
