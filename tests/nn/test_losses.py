"""InfoNCE and NCE against loops over their definitions, information bounds against Gaussians."""

import math

import numpy as np
import pytest
import torch
from oracles import slow_info_nce, slow_nce
from torch.nn import functional as F

from anomalib_lite.nn import info_nce_loss, info_nce_values, information_bound, mlp, nce_loss

B, M, D = 5, 7, 3
MODES = {
    "in batch": {},
    "shared negatives": {"negatives": (M, D)},
    "one shared negative": {"negatives": (1, D)},
    "own negatives": {"negatives": (B, M, D)},
    "symmetric": {"symmetric": True},
}


def vectors(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def world(mode, dtype=torch.float64):
    """(queries, keys, options) of a mode."""
    options = dict(MODES[mode])
    if "negatives" in options:
        options["negatives"] = vectors(*options["negatives"], seed=2, dtype=dtype)
    return vectors(B, D, dtype=dtype), vectors(B, D, seed=1, dtype=dtype), options


@pytest.mark.parametrize("temperature", [0.1, 0.5, 3])
@pytest.mark.parametrize("mode", MODES)
def test_info_nce_is_its_definition(mode, temperature):
    queries, keys, options = world(mode)
    loss = info_nce_loss(queries, keys, temperature=temperature, **options)
    assert loss.shape == ()
    assert float(loss) == pytest.approx(slow_info_nce(queries, keys, temperature, **options))


@pytest.mark.parametrize("mode", MODES)
def test_float32_is_enough(mode):
    queries, keys, options = world(mode, torch.float32)
    loss = info_nce_loss(queries, keys, **options)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(slow_info_nce(queries, keys, 0.1, **options), rel=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_the_slow_loss_has_teeth(mode):
    queries, keys, options = world(mode)
    slow = slow_info_nce(queries, keys, 0.5, **options)
    others = [
        info_nce_loss(queries, keys, temperature=0.6, **options),
        info_nce_loss(queries, keys.flip(0), temperature=0.5, **options),
        info_nce_loss(queries, keys, temperature=0.5, **world(_another(mode))[2]),
    ]
    assert min(abs(slow - float(other)) for other in others) > 1e-3


def _another(mode):
    names = list(MODES)
    return names[names.index(mode) - 1]


@pytest.mark.parametrize("mode", MODES)
def test_gradients_are_those_of_the_loss(mode):
    queries, keys, options = world(mode)
    given = [queries, keys, *([options.pop("negatives")] if "negatives" in options else [])]

    def loss(queries, keys, negatives=None):
        return info_nce_loss(queries, keys, temperature=0.5, negatives=negatives, **options)

    assert torch.autograd.gradcheck(loss, [rows.requires_grad_() for rows in given])


@pytest.mark.parametrize("mode", ["shared negatives", "own negatives"])
def test_the_loss_is_the_mean_of_each_querys_value(mode):
    queries, keys, options = world(mode)
    negatives = options["negatives"]
    values = info_nce_values(queries, keys, negatives, temperature=0.5)
    assert values.shape == (B,)
    for i in range(B):
        own = negatives if negatives.ndim == 2 else negatives[i]
        alone = slow_info_nce(queries[[i]], keys[[i]], 0.5, negatives=own)
        assert float(values[i]) == pytest.approx(alone)


def test_equal_own_negatives_are_shared_ones():
    queries, keys, options = world("shared negatives")
    shared = info_nce_loss(queries, keys, **options)
    own = info_nce_loss(queries, keys, negatives=options["negatives"].expand(B, -1, -1))
    torch.testing.assert_close(own, shared)


def test_a_query_takes_the_shared_negatives_chosen_for_it():
    queries, keys, shared = vectors(B, D), vectors(B, D, seed=1), vectors(M, D, seed=2)
    chosen = torch.randint(M, (B, 4), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(
        info_nce_values(queries, keys, shared, temperature=0.5, chosen=chosen),
        info_nce_values(queries, keys, shared[chosen], temperature=0.5),
    )
    others = info_nce_values(queries, keys, shared, temperature=0.5, chosen=chosen.flip(0))
    assert not torch.allclose(
        others, info_nce_values(queries, keys, shared[chosen], temperature=0.5)
    )


def test_queries_and_keys_are_interchangeable_in_the_symmetric_loss():
    queries, keys, _ = world("symmetric")
    swapped = info_nce_loss(keys, queries, symmetric=True)
    torch.testing.assert_close(swapped, info_nce_loss(queries, keys, symmetric=True))
    assert info_nce_loss(keys, queries) != pytest.approx(float(info_nce_loss(queries, keys)))


@pytest.mark.parametrize("options", [{}, {"symmetric": True}])
def test_vectors_far_apart_neither_overflow_nor_vanish(options):
    rows = F.normalize(vectors(B, D), dim=1)
    hard = info_nce_loss(rows, -rows, temperature=1e-3, **options)
    assert torch.isfinite(hard)
    assert hard > 100
    assert info_nce_loss(rows, rows, temperature=1e-3, **options) < 1e-9


def test_arguments_are_left_unchanged():
    queries, keys, options = world("symmetric")
    before = queries.clone(), keys.clone()
    info_nce_loss(queries, keys, **options)
    assert torch.equal(queries, before[0])
    assert torch.equal(keys, before[1])


@pytest.mark.parametrize("mode", MODES)
def test_the_default_device_does_not_matter(mode):
    queries, keys, options = world(mode)
    expected = info_nce_loss(queries, keys, **options)
    with torch.device("meta"):
        assert torch.equal(info_nce_loss(queries, keys, **options), expected)


@pytest.mark.parametrize("temperature", [0, -0.1, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    message = f"temperature: expected a positive number, got {temperature}"
    with pytest.raises(ValueError, match=message):
        info_nce_loss(vectors(B, D), vectors(B, D), temperature=temperature)


@pytest.mark.parametrize(
    ("queries", "keys"), [((B, D), (B, D + 1)), ((B, D), (B - 1, D)), ((D,), (D,)), ((B, D), (D,))]
)
def test_queries_and_keys_of_different_shapes_are_refused(queries, keys):
    with pytest.raises(ValueError, match=r"expected the same shape \(B, D\), got") as error:
        info_nce_loss(vectors(*queries), vectors(*keys))
    assert f"{queries} and {keys}" in str(error.value)


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_query_without_negatives_is_refused(symmetric):
    with pytest.raises(ValueError, match="queries: expected at least 2 without negatives"):
        info_nce_loss(vectors(1, D), vectors(1, D), symmetric=symmetric)


@pytest.mark.parametrize(
    "shape", [(M, D + 1), (B + 1, M, D), (0, D), (B, 0, D), (D,), (1, B, M, D)]
)
def test_negatives_of_the_wrong_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"negatives: expected \(M, 3\) or \(5, M, 3\)") as error:
        info_nce_loss(vectors(B, D), vectors(B, D), negatives=vectors(*shape))
    assert f"got {shape}" in str(error.value)


def test_a_symmetric_loss_takes_no_negatives():
    with pytest.raises(ValueError, match="symmetric: expected in-batch negatives"):
        info_nce_loss(vectors(B, D), vectors(B, D), negatives=vectors(M, D), symmetric=True)


# -- NCE ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise_ratio", [1, 5, 0.5])
def test_nce_is_its_definition(noise_ratio):
    data, noise = vectors(7), vectors(21, seed=1)
    loss = nce_loss(data_logits=data, noise_logits=noise, noise_ratio=noise_ratio)
    assert float(loss) == pytest.approx(slow_nce(data.tolist(), noise.tolist(), noise_ratio))


def test_nce_stays_finite_where_sigmoids_are_0_or_1():
    far = torch.tensor([-1e4, 1e4])
    assert float(nce_loss(far, far, 5)) == pytest.approx(5e3 + 5 * 5e3)


def test_nce_is_lowest_at_the_true_log_odds():
    n, ratio = 200_000, 3
    data, noise = vectors(n), 2 * vectors(ratio * n, seed=1)

    def logits(x):  # log N(0, 1) - log N(0, 4) - log ratio
        return torch.tensor(2 / ratio).log() - x.square() * (1 / 2 - 1 / 8)

    def loss(shift, factor):
        return float(nce_loss(factor * logits(data) + shift, factor * logits(noise) + shift, ratio))

    lowest = loss(0, 1)
    for shift, factor in ((0.3, 1), (-0.3, 1), (0, 1.3), (0, 0.7)):
        assert loss(shift, factor) > lowest


@pytest.mark.parametrize("noise_ratio", [0, -1, math.nan])
def test_nce_refuses_a_noise_ratio_that_is_not_positive(noise_ratio):
    message = f"noise_ratio: expected a positive number, got {noise_ratio}"
    with pytest.raises(ValueError, match=message):
        nce_loss(vectors(2), vectors(2), noise_ratio)


# -- information ----------------------------------------------------------------------------------


def correlated(n, rho, seed=0):
    """Pairs (n, 2) of standard normal numbers; their mutual information is -log(1 - rho²) / 2."""
    x, other = vectors(2, n, seed=seed)
    return torch.stack([x, rho * x + math.sqrt(1 - rho**2) * other], 1)


def shuffled(pairs):
    return torch.stack([pairs[:, 0], pairs[:, 1].roll(1)], 1)


def log_ratio(pairs, rho):
    """Log of the density of pairs drawn together over that of pairs drawn apart."""
    x, z = pairs.T
    square = (rho**2 * (x**2 + z**2) - 2 * rho * x * z) / (2 * (1 - rho**2))
    return -square - math.log(1 - rho**2) / 2


def limit(kind, rho):
    """The bound with the best critic: in closed form, or by an integral over a grid."""
    if kind == "donsker-varadhan":
        return -math.log(1 - rho**2) / 2
    axis = torch.linspace(-8, 8, 801, dtype=torch.float64)
    pairs = torch.cartesian_prod(axis, axis)
    q = torch.exp(-pairs.square().sum(1) / 2) / (2 * math.pi)
    t = log_ratio(pairs, rho)
    p = q * t.exp()
    integrand = p * F.logsigmoid(t) + q * F.logsigmoid(-t)
    return 2 * math.log(2) + float(integrand.sum() * (axis[1] - axis[0]) ** 2)


@pytest.mark.parametrize("kind", ["jensen-shannon", "donsker-varadhan"])
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_the_best_critic_reaches_the_information_of_correlated_gaussians(kind, rho):
    pairs = correlated(200_000, rho)
    values = log_ratio(pairs, rho), log_ratio(shuffled(pairs), rho)
    found = float(information_bound(*values, kind=kind))
    assert found == pytest.approx(limit(kind, rho), abs=0.02)
    for worse in (lambda t: 0.7 * t, lambda t: 1.4 * t, lambda t: t.clamp(-1, 1)):
        assert float(information_bound(*map(worse, values), kind=kind)) <= found
    moved = float(information_bound(values[0] + 3, values[1] + 3, kind=kind))
    assert (moved == pytest.approx(found)) == (kind == "donsker-varadhan")


@pytest.mark.parametrize("kind", ["jensen-shannon", "donsker-varadhan"])
def test_a_trained_critic_finds_the_information_of_correlated_gaussians(kind):
    rho = 0.8
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = mlp(2, (32, 32), 1, norm=False).double()

    def critic(pairs):
        return [network(each)[:, 0] for each in (pairs, shuffled(pairs))]

    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for step in range(300):
        optimizer.zero_grad()
        (-information_bound(*critic(correlated(1000, rho, seed=step + 1)), kind=kind)).backward()
        optimizer.step()
    test = correlated(50_000, rho)
    with torch.no_grad():
        values = critic(test)
    assert float(information_bound(*values, kind=kind)) == pytest.approx(limit(kind, rho), abs=0.05)
    assert np.corrcoef(values[0], log_ratio(test, rho))[0, 1] > 0.95


def test_unknown_bounds_are_refused():
    with pytest.raises(ValueError, match=r"kind: expected one of .*got 'nwj'"):
        information_bound(torch.zeros(2), torch.zeros(2), kind="nwj")
