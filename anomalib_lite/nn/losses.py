"""Losses that methods share: InfoNCE, NCE and bounds on mutual information."""

import math

import torch
from torch.nn import functional as F


def info_nce_loss(
    queries: torch.Tensor,
    keys: torch.Tensor,
    *,
    temperature: float = 0.1,
    negatives: torch.Tensor | None = None,
    symmetric: bool = False,
) -> torch.Tensor:
    r"""InfoNCE: cross-entropy of picking each query's own key among negatives, in nats.

    .. math::
        -\frac{1}{B} \sum_i \log \frac{\exp(q_i \cdot k_i / \tau)}
        {\exp(q_i \cdot k_i / \tau) + \sum_j \exp(q_i \cdot n_j / \tau)}

    The negatives :math:`n_j` of a query are the other queries' keys, or those given. Vectors are
    not normalized; normalize them first to compare by cosine.

    Parameters
    ----------
    queries, keys : torch.Tensor of shape (B, D)
        ``keys[i]`` is the positive of ``queries[i]``.
    temperature : float, default=0.1
        :math:`\tau`, positive.
    negatives : torch.Tensor of shape (M, D) or (B, M, D), or None, default=None
        Shared by all queries, or each query's own. None takes the other keys of the batch.
    symmetric : bool, default=False
        Average with the loss of keys that look for their queries, with the other queries as
        negatives, too: the loss of SimCLR (NT-Xent). For in-batch negatives only.

    Returns
    -------
    loss : torch.Tensor of shape ()

    Raises
    ------
    ValueError
        If the temperature is not positive, shapes do not match, or a query has no negative.

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
    logits = both @ both.T / temperature
    logits.fill_diagonal_(-torch.inf)  # exclude self-similarity
    return F.cross_entropy(logits, torch.cat([own + len(own), own]))


def info_nce_values(
    queries: torch.Tensor,
    keys: torch.Tensor,
    negatives: torch.Tensor,
    *,
    temperature: float,
    chosen: torch.Tensor | None = None,
) -> torch.Tensor:
    """InfoNCE of each query against explicit negatives, in nats.

    Parameters
    ----------
    queries, keys : torch.Tensor of shape (B, D)
        ``keys[i]`` is the positive of ``queries[i]``.
    negatives : torch.Tensor of shape (M, D) or (B, M, D)
        Shared by all queries, or each query's own.
    temperature : float
        Positive.
    chosen : torch.Tensor of shape (B, m) or None, default=None
        Indices of the shared negatives that each query takes; None takes all.

    Returns
    -------
    values : torch.Tensor of shape (B,)
    """
    positive = (queries * keys).sum(-1, keepdim=True)  # (B, 1)
    if negatives.ndim == 2:
        negative = queries @ negatives.T  # (B, M)
        if chosen is not None:
            negative = negative.gather(1, chosen)
    else:
        negative = torch.einsum("bd,bmd->bm", queries, negatives)
    logits = torch.cat([positive, negative], dim=1) / temperature
    return logits.logsumexp(1) - logits[:, 0]


def nce_loss(
    data_logits: torch.Tensor, noise_logits: torch.Tensor, noise_ratio: float
) -> torch.Tensor:
    r"""Noise contrastive estimation: the logistic loss of telling data from noise, in nats.

    .. math::
        -\frac{1}{B} \sum_i \log \sigma(h_i) - \frac{\nu}{M} \sum_j \log(1 - \sigma(\tilde h_j))

    At its minimum :math:`h + \log \nu + \log p_n` is the log-density of the data. It stays finite
    for logits of any size.

    Parameters
    ----------
    data_logits : torch.Tensor of shape (B,)
        Logits :math:`h` "data, not noise" of data samples.
    noise_logits : torch.Tensor of shape (M,)
        Logits :math:`\tilde h` of noise samples.
    noise_ratio : float
        Noise samples per data sample, :math:`\nu`: positive.

    Returns
    -------
    loss : torch.Tensor of shape ()

    Raises
    ------
    ValueError
        If ``noise_ratio`` is not positive.

    References
    ----------
    M. Gutmann, A. Hyvärinen, "Noise-contrastive estimation: A new estimation principle for
    unnormalized statistical models", AISTATS 2010.

    Examples
    --------
    >>> round(float(nce_loss(torch.zeros(4), torch.zeros(8), noise_ratio=2)), 4)  # 3 log 2
    2.0794
    """
    if not noise_ratio > 0:
        raise ValueError(f"noise_ratio: expected a positive number, got {noise_ratio!r}.")
    return F.softplus(-data_logits).mean() + noise_ratio * F.softplus(noise_logits).mean()


INFORMATION_BOUNDS = ("jensen-shannon", "donsker-varadhan")


def information_bound(
    joint: torch.Tensor, product: torch.Tensor, *, kind: str = "jensen-shannon"
) -> torch.Tensor:
    r"""Lower bound on the dependence of two variables, from a critic's values T of pairs.

    Jensen-Shannon bounds twice the Jensen-Shannon divergence between pairs drawn together and pairs
    drawn apart, which lies in [0, 2 log 2]:

    .. math:: 2 \log 2 - E_{xz}[\mathrm{softplus}(-T)] - E_{x, z}[\mathrm{softplus}(T)]

    Donsker-Varadhan bounds the mutual information in nats, which has no upper limit, with a larger
    variance:

    .. math:: E_{xz}[T] - \log E_{x, z}[e^T]

    Either is tight where T is the log of the density ratio of pairs drawn together to pairs drawn
    apart (plus, for the second, any constant).

    Parameters
    ----------
    joint : torch.Tensor of shape (n,)
        T of pairs drawn together.
    product : torch.Tensor of shape (m,)
        T of pairs drawn apart, as by shuffling one of the two variables.
    kind : {"jensen-shannon", "donsker-varadhan"}, default="jensen-shannon"

    Returns
    -------
    bound : torch.Tensor of shape ()
        To be maximized.

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
    >>> float(information_bound(torch.zeros(4), torch.zeros(4)))  # a critic that tells nothing
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
            "queries, keys: expected the same shape (B, D), got "
            f"{tuple(queries.shape)} and {tuple(keys.shape)}."
        )
    if negatives is None:
        if len(queries) < 2:
            raise ValueError(
                "queries: expected at least 2 without negatives, got 1. Pass negatives."
            )
        return
    if symmetric:
        raise ValueError("symmetric: expected in-batch negatives, got explicit ones. Drop either.")
    n, d = queries.shape
    fits = negatives.shape[-1] == d and (
        negatives.ndim == 2 or (negatives.ndim == 3 and len(negatives) == n)
    )
    if not (fits and negatives.shape[-2] > 0):
        raise ValueError(
            f"negatives: expected (M, {d}) or ({n}, M, {d}), got {tuple(negatives.shape)}."
        )
