"""What models are made of: normalisers, the linear fit, and networks trained side by side."""

import numpy as np
import pytest
import torch
from torch import nn

from mbrl_helpers.networks import (
    EnsembleNetwork,
    Normalizer,
    TrainingConfig,
    cross_entropy,
    falling_rate,
    fit_ridge,
    load_network,
    network_arrays,
    squared_error,
    train_network,
    with_ones,
)

SETTINGS = {
    "learning_rate": 1e-2,
    "weight_decay": 1e-4,
    "batch_size": 16,
    "max_updates": 60,
    "check_every": 5,
    "patience": 8,
    "min_gain": 0.0,
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def ensemble(num_members=3, sizes=(4, 8, 8, 2), seed=0):
    """With a last layer that is not zero, so that all weights matter."""
    network, rng = EnsembleNetwork(num_members, sizes, seeded(seed)), seeded(seed + 1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=rng))
    return network


def members(network):
    """The same as E separate networks of plain PyTorch."""
    separate = []
    for e in range(network.num_members):
        layers = []
        for weight, bias in zip(network.weights, network.biases, strict=True):
            layer = nn.Linear(*weight.shape[1:])
            with torch.no_grad():
                layer.weight.copy_(weight[e].T)
                layer.bias.copy_(bias[e, 0])
            layers += [layer, nn.SiLU()]
        separate.append(nn.Sequential(*layers[:-1]))
    return separate


def problem(num_rows=80, seed=0):
    x = torch.randn(num_rows, 4, generator=seeded(seed))
    return x, torch.stack([x[:, 0] * x[:, 1], x[:, 2].sin()], dim=1)


# --- normaliser and linear fit -------------------------------------------------------------------


def test_normalizer_makes_standard_units_and_back():
    data = torch.randn(500, 3, generator=seeded()) * torch.tensor([1e-3, 1.0, 1e4]) + 7
    norm = Normalizer(data)
    units = norm.normalize(data)
    torch.testing.assert_close(units.mean(0), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(units.std(0, correction=0), torch.ones(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(norm.denormalize(units), data)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 12345.678, 1e-8])
@pytest.mark.parametrize("num_rows", [1, 1000])
def test_constant_columns_only_shift(value, num_rows):
    data = torch.full((num_rows, 1), value)  # the mean of 1000 equal floats is not quite that float
    norm = Normalizer(data)
    assert norm.std.item() == 1
    torch.testing.assert_close(norm.normalize(data), 0 * data, atol=1e-2, rtol=0)
    torch.testing.assert_close(norm.normalize(data + 1), 0 * data + 1, atol=1e-2, rtol=0)


@pytest.mark.parametrize("column", [0.0, 1.0])
def test_a_normalizer_survives_a_file(column):
    data = torch.randn(50, 3, generator=seeded()) * torch.tensor([1e-3, column, 1e4]) + 7
    norm = Normalizer(data)
    again = Normalizer.of_arrays(norm.arrays())
    assert vars(again).keys() == vars(norm).keys()
    for name, value in vars(norm).items():
        assert torch.equal(getattr(again, name), value)
        assert getattr(again, name).dtype == value.dtype
    assert torch.equal(again.normalize(data), norm.normalize(data))


def test_ridge_without_penalty_is_least_squares():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4)) * [1, 10, 0.1, 1] + [0, 5, 0, 1]
    y = x @ rng.normal(size=(4, 2)) + rng.normal(size=(60, 2))
    expected = np.linalg.lstsq(x, y, rcond=None)[0]
    found = fit_ridge(torch.tensor(x), torch.tensor(y), 1e-12)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_ridge_shrinks_and_penalises_per_row():
    x, y = problem()
    norms = [fit_ridge(x, y, ridge).norm().item() for ridge in (1e-6, 0.1, 1.0, 10.0, 1e6)]
    assert norms == sorted(norms, reverse=True)
    assert norms[-1] < 1e-4 * norms[0]
    twice = fit_ridge(torch.cat([x, x]), torch.cat([y, y]), 0.1)
    torch.testing.assert_close(twice, fit_ridge(x, y, 0.1))


def test_ridge_is_where_its_objective_has_no_slope():
    x, y = problem()
    weights = fit_ridge(x, y, 0.1).double().requires_grad_()
    objective = (x.double() @ weights - y).square().sum() + 0.1 * len(x) * weights.square().sum()
    (slope,) = torch.autograd.grad(objective, weights)
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-4, rtol=0)


def test_collinear_columns_have_a_solution():
    """One-hot actions add up to the constant column."""
    x = with_ones(torch.eye(2)[torch.arange(20) % 2])
    assert x.tolist()[:2] == [[1, 0, 1], [0, 1, 1]]
    y = x[:, :1] * 3 + 1
    torch.testing.assert_close(x @ fit_ridge(x, y, 1e-6), y, atol=1e-3, rtol=0)


# --- the batched network -------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(4, 2), (4, 8, 2), (4, 8, 16, 2)])
def test_ensemble_equals_separate_networks(sizes):
    network = ensemble(3, sizes)
    x = torch.randn(3, 5, 4, generator=seeded(2))
    for mode in (torch.enable_grad, torch.no_grad):
        with mode():
            each = torch.stack([f(rows) for f, rows in zip(members(network), x, strict=True)])
            torch.testing.assert_close(network(x), each)
            shared = torch.stack([f(x[0]) for f in members(network)])
            torch.testing.assert_close(network(x[0]), shared)


@pytest.mark.parametrize("grad", [True, False])
def test_inputs_are_left_alone(grad):
    x = torch.randn(3, 5, 4, generator=seeded())
    before = x.clone()
    with torch.set_grad_enabled(grad):
        ensemble()(x)
    assert torch.equal(x, before)


def test_before_training_it_predicts_zero():
    network = EnsembleNetwork(3, (4, 8, 2), seeded())
    assert torch.equal(network(torch.randn(5, 4, generator=seeded())), torch.zeros(3, 5, 2))
    first = network.weights[0]
    assert not torch.equal(first[0], first[1])  # but the members differ


@pytest.mark.parametrize("sizes", [(4, 2), (4, 8, 8, 2)])
def test_folded_takes_raw_inputs(sizes):
    network = ensemble(3, sizes)
    data = torch.randn(50, 4, generator=seeded()) * torch.tensor([0.1, 1, 10, 0]) + 3
    norm = Normalizer(data)
    scale, shift = torch.tensor([2.0, -0.5]), torch.tensor([1.0, 100.0])
    folded = network.folded(norm, scale, shift)
    expected = network(norm.normalize(data)) * scale + shift
    torch.testing.assert_close(folded(data), expected.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(network(norm.normalize(data)) * scale + shift, expected)  # untouched
    (slope,) = torch.autograd.grad(folded(data.requires_grad_()).sum(), data)
    assert slope.abs().sum() > 0  # planning may go through it by gradient


@pytest.mark.parametrize("grad", [True, False])
def test_forward_is_the_last_layer_of_the_features(grad):
    network, x = ensemble(3, (4, 8, 16, 2)), torch.randn(3, 5, 4, generator=seeded(2))
    with torch.set_grad_enabled(grad):
        for rows in (x, x[0]):
            features = network.features(rows)
            assert features.shape == (3, 5, 16)
            last = torch.baddbmm(network.biases[-1], features, network.weights[-1])
            assert torch.equal(network(rows), last)
        linear = ensemble(3, (4, 2))
        assert torch.equal(linear.features(x[0]), x[0].expand(3, -1, -1))


def test_layers_are_the_parameters():
    """In order, beyond ten of them, too."""
    network = ensemble(2, (4, *range(3, 15), 2))
    assert network.sizes == (4, *range(3, 15), 2)
    layers = network.layers()
    assert len(layers) == len(network.weights) == len(network.biases) == 13
    for i, (weight, bias) in enumerate(layers):
        assert weight is network.weights[i]
        assert bias is network.biases[i]


@pytest.mark.parametrize("sizes", [(4, 2), (4, 8, 8, 2)])
def test_weights_that_are_lent_are_those_that_count(sizes):
    """As `torch.func` lends them: for gradients with respect to them, or for many at once."""
    network, other = ensemble(3, sizes), ensemble(3, sizes, seed=7)
    x = torch.randn(5, 4, generator=seeded(2))
    own, lent = network(x), dict(other.named_parameters())
    assert torch.equal(torch.func.functional_call(network, lent, (x,)), other(x))
    assert torch.equal(network(x), own)
    some = {"weights.0": other.weights[0]}
    expected = ensemble(3, sizes)
    with torch.no_grad():
        expected.weights[0].copy_(other.weights[0])
    assert torch.equal(torch.func.functional_call(network, some, (x,)), expected(x))

    def loss(parameters):
        return torch.func.functional_call(network, parameters, (x,)).square().sum()

    slopes = torch.func.grad(loss)({name: p.detach() for name, p in lent.items()})
    other(x).square().sum().backward()
    for name, parameter in other.named_parameters():
        torch.testing.assert_close(slopes[name], parameter.grad)


@pytest.mark.parametrize("how", ["item", "list", "in place", "state dict"])
def test_weights_that_are_replaced_are_those_that_count(how):
    network, other = ensemble(), ensemble(seed=7)
    x = torch.randn(5, 4, generator=seeded(2))
    network(x)
    if how == "item":
        for i in range(3):
            network.weights[i] = nn.Parameter(other.weights[i].detach().clone())
            network.biases[i] = nn.Parameter(other.biases[i].detach().clone())
    elif how == "list":
        network.weights, network.biases = other.weights, other.biases
    elif how == "in place":
        with torch.no_grad():
            for parameter, value in zip(network.parameters(), other.parameters(), strict=True):
                parameter.copy_(value)
    else:
        network.load_state_dict(other.state_dict())
    torch.testing.assert_close(network(x), other(x))
    assert {id(p) for p in network.parameters()} == {
        id(p) for pair in network.layers() for p in pair
    }


# --- what a file keeps of it ---------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(4, 2), (4, 8, 2), (40, 8, 32, 1), (4, 1, 1)])
@pytest.mark.parametrize("num_members", [1, 3])
def test_a_network_survives_a_file_to_the_bit(num_members, sizes):
    """And as it lies in memory: the last bit of a product depends on that."""
    network = ensemble(num_members, sizes)
    again = EnsembleNetwork(num_members, sizes, seeded(99))
    load_network(again, network_arrays(network))
    for value, other in zip(network.parameters(), again.parameters(), strict=True):
        assert torch.equal(value, other)
        for axis, length in enumerate(value.shape):  # of an axis of one it makes no difference
            assert length == 1 or value.stride(axis) == other.stride(axis)
    for num_rows in (1, 2, 7, 300):
        x = torch.randn(num_rows, sizes[0], generator=seeded(num_rows))
        assert torch.equal(network(x), again(x))
        assert torch.equal(
            network(x.expand(num_members, -1, -1)), again(x.expand(num_members, -1, -1))
        )


@pytest.mark.parametrize("other", [(3, (4, 8, 2)), (2, (4, 8, 8, 2)), (3, (4, 8, 8, 1))])
def test_weights_of_another_network_are_refused(other):
    network = ensemble(3, (4, 8, 8, 2))
    before = [p.detach().clone() for p in network.parameters()]
    with pytest.raises(ValueError, match=r"weights of shapes .* where the settings ask for"):
        load_network(network, network_arrays(ensemble(*other)))
    assert all(map(torch.equal, before, network.parameters()))


# --- gradients -----------------------------------------------------------------------------------


def test_gradient_of_one_member_does_not_touch_the_others():
    network = ensemble()
    x, y = problem()
    squared_error(network(x), y)[1].sum().backward()
    for parameter in network.parameters():
        touched = parameter.grad.flatten(1).abs().sum(1) > 0
        assert touched.tolist() == [False, True, False]


def test_losses():
    """Of each member and column, whether targets are of all members or of each."""
    out, target = torch.tensor([[[1.0], [3.0]], [[0.0], [0.0]]]), torch.tensor([[0.0], [1.0]])
    torch.testing.assert_close(squared_error(out, target), torch.tensor([[2.5], [0.5]]))
    two = torch.cat([out, 10 * out], 2), torch.cat([target, 0 * target], 1)
    expected = torch.tensor([[2.5, 500.0], [0.5, 0.0]])
    torch.testing.assert_close(squared_error(*two), expected)
    torch.testing.assert_close(squared_error(two[0], two[1].expand(2, -1, -1)), expected)
    p = out.sigmoid()
    expected = -((1 - p[:, 0]).log() + p[:, 1].log()) / 2
    assert expected.shape == (2, 1)
    torch.testing.assert_close(cross_entropy(out, target), expected)
    network = ensemble(2, (1, 1))  # what a plain network minimises, whatever varies
    assert torch.equal(network.loss(out, target, torch.tensor([False])), squared_error(out, target))
    assert network.moments(out) == (out, None)


@pytest.mark.parametrize("num_updates", [1, 3, 300])
def test_the_rate_falls_after_a_third(num_updates):
    rates = [falling_rate(update, num_updates) for update in range(num_updates + 1)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 1
    assert rates[-1] == pytest.approx(0.02)
    for update, rate in enumerate(rates):
        assert rate == pytest.approx(min(1, 1.52 - 1.5 * update / num_updates))


# --- training ------------------------------------------------------------------------------------


def train(network, *, loss=squared_error, rows=60, seed=3, **changes):
    x, y = problem()
    data = (x[:rows], y[:rows]), (x[rows:], y[rows:])
    return train_network(network, loss, *data, seeded(seed), TrainingConfig(**SETTINGS | changes))


def together(out, target):
    """All columns as one: what is kept is then exactly what is lowest."""
    return squared_error(out, target).mean(-1, keepdim=True)


def validation_losses(network, rows=60):
    x, y = problem()
    with torch.no_grad():
        return together(network(x[rows:]), y[rows:])[:, 0]


def test_training_lowers_both_losses():
    network = EnsembleNetwork(3, (4, 8, 8, 2), seeded())
    history = train(network, max_updates=300)
    assert history["updates"] == list(range(0, 301, 5))
    assert min(history["validation"]) < 0.5 * history["validation"][0]
    assert history["train"][-1] < 0.5 * history["train"][1]


def test_members_learn_independently():
    """Which numbers the other members have makes no difference to a member."""
    together, other = ensemble(), ensemble()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter[1:] += 1.0
    train(together)
    train(other)
    for a, b in zip(together.parameters(), other.parameters(), strict=True):
        assert torch.equal(a[0], b[0])
        assert not torch.equal(a[1], b[1])


def test_members_see_different_batches():
    network = ensemble()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter[1:] = parameter[0]
    train(network, patience=100)
    assert not torch.allclose(network.weights[0][0], network.weights[0][1])


def test_order_of_members_makes_no_difference():
    """With whole-data batches nothing is drawn: permuting the members permutes the results."""
    network, permuted, order = ensemble(), ensemble(), [2, 0, 1]
    with torch.no_grad():
        for parameter in permuted.parameters():
            parameter.copy_(parameter[order])
    train(network, batch_size=1000)
    train(permuted, batch_size=1000)
    for a, b in zip(network.parameters(), permuted.parameters(), strict=True):
        torch.testing.assert_close(a[order], b, atol=1e-4, rtol=1e-3)


def test_same_generator_state_same_result():
    networks = [ensemble(), ensemble(), ensemble()]
    for network, seed in zip(networks, (3, 3, 4), strict=True):
        train(network, seed=seed)
    weights = [network.weights[0] for network in networks]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_each_member_keeps_its_own_best_weights():
    """A learning rate that makes it worse soon: the best is of different looks."""
    seen = []

    def watched(out, target):
        losses = together(out, target)
        if not torch.is_grad_enabled():
            seen.append(losses[:, 0])
        return losses

    network = ensemble()
    train(network, loss=watched, learning_rate=0.3, check_every=1)
    seen = torch.stack(seen)
    torch.testing.assert_close(validation_losses(network), seen.amin(0))
    best = seen.argmin(0)
    assert (best < len(seen) - 1).all()  # not simply the last ones
    assert len(set(best.tolist())) > 1


def test_stops_when_nothing_improves():
    """Nothing to learn: the looks at updates 5 to 20 are just as good as the one at 0."""

    def constant(out, target):
        return 0 * squared_error(out, target) + 1

    history = train(ensemble(), loss=constant, patience=4, max_updates=1000)
    assert history["updates"] == [0, 5, 10, 15, 20]


@pytest.mark.parametrize(("min_gain", "last"), [(0.0, 1000), (0.09, 1000), (0.11, 25)])
def test_small_gains_count_together(min_gain, last):
    """A loss that falls by 2 % from look to look has fallen by 9.6 % in five looks."""
    looks = iter(range(10_000))

    def falling(out, target):
        if torch.is_grad_enabled():
            return squared_error(out, target)
        return torch.full((3, 2), 0.98 ** next(looks))

    history = train(ensemble(), loss=falling, patience=5, min_gain=min_gain, max_updates=1000)
    assert history["updates"][-1] == last


@pytest.mark.parametrize(("max_updates", "looks"), [(7, [0, 5, 7]), (3, [0, 3]), (10, [0, 5, 10])])
def test_last_updates_count_too(max_updates, looks):
    network = EnsembleNetwork(3, (4, 8, 2), seeded())
    before = validation_losses(network)
    assert train(network, max_updates=max_updates)["updates"] == looks
    assert (validation_losses(network) < before).all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_diverge_are_not_kept(value):
    network = ensemble()
    before = [p.detach().clone() for p in network.parameters()]
    calls = 0

    def diverging(out, target):
        nonlocal calls
        calls += 1
        return squared_error(out, target) + (value if calls > 1 else 0)

    train(network, loss=diverging)
    for parameter, kept in zip(network.parameters(), before, strict=True):
        assert torch.equal(parameter, kept)


@pytest.mark.parametrize("stop_at", [1, 2, 3, 30, 47])
def test_interrupt_leaves_the_best_weights(stop_at):
    seen, calls = [], 0

    def interrupted(out, target):
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise KeyboardInterrupt
        losses = together(out, target)
        if not torch.is_grad_enabled():
            seen.append(losses[:, 0])
        return losses

    network = ensemble()
    untouched = validation_losses(network)
    with pytest.raises(KeyboardInterrupt):
        train(network, loss=interrupted, learning_rate=0.1)
    best = torch.stack([*seen, untouched]).amin(0)
    torch.testing.assert_close(validation_losses(network), best)


def test_every_row_is_used():
    """Batches are cut from a permutation: after one pass each row was seen once."""
    rows = torch.arange(48.0)[:, None]
    seen = []

    def watch(out, target):
        if torch.is_grad_enabled():
            seen.append(target[..., 0])
        return out.mean(-2)

    network = EnsembleNetwork(2, (1, 1), seeded())
    data = rows, rows
    train_network(
        network, watch, data, data, seeded(), TrainingConfig(**SETTINGS | {"max_updates": 6})
    )
    first, second = torch.cat(seen[:3], dim=1), torch.cat(seen[3:6], dim=1)
    for passed in (first, second):
        assert torch.equal(passed.sort(dim=1).values, rows[:, 0].expand(2, -1))
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


def test_every_member_may_have_its_own_rows():
    """Rows [E, T, ...]: each as if it were trained on them alone."""
    rows = torch.randn(3, 60, 4, generator=seeded())
    targets = rows[..., :2] * torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    config = TrainingConfig(**SETTINGS | {"batch_size": 1000})
    network, data = ensemble(), (rows, targets)
    train_network(network, squared_error, data, data, seeded(), config)
    for e in range(3):
        alone, own = ensemble(), (rows[e], targets[e])
        train_network(alone, squared_error, own, own, seeded(), config)
        for a, b in zip(network.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(a[e], b[e], atol=1e-4, rtol=1e-3)


def test_a_score_says_what_is_a_gain():
    """Of losses below zero there is no share: nothing would be a gain, and nothing learned."""

    def below(out, target):
        return squared_error(out, target) - 10

    untrained, before = ensemble(), ensemble()
    plain = train(untrained, loss=below, patience=2, min_gain=0.01, max_updates=500)
    x, y = problem()
    network, config = ensemble(), TrainingConfig(**SETTINGS | {"patience": 2, "min_gain": 0.01,
                                                               "max_updates": 500})  # fmt: skip
    scored = train_network(network, below, (x[:60], y[:60]), (x[60:], y[60:]), seeded(3), config,
                           score=lambda loss: loss + 10)  # fmt: skip
    assert plain["updates"] == [0, 5, 10]
    assert all(map(torch.equal, untrained.parameters(), before.parameters()))
    as_usual = train(ensemble(), patience=2, min_gain=0.01, max_updates=500)
    assert scored["updates"] == as_usual["updates"]
    assert 10 < scored["updates"][-1] < 500


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"max_updates": 0}, ValueError, "max_updates >= 1, got 0"),
        ({"batch_size": 2.5}, TypeError, "batch_size as an int, got 2.5"),
        ({"learning_rate": 0.0}, ValueError, r"learning_rate in \(0, inf\), got 0\.0"),
        ({"learning_rate": "1e-3"}, TypeError, "learning_rate as a number, got '1e-3'"),
        ({"weight_decay": float("inf")}, ValueError, r"weight_decay in \[0, inf\), got inf"),
        ({"min_gain": 1.0}, ValueError, r"min_gain in \[0, 1\), got 1\.0"),
    ],
)
def test_settings_that_make_no_sense(settings, error, says):
    with pytest.raises(error, match=f"TrainingConfig: expected {says}"):
        TrainingConfig(**settings)
