"""Networks that know how sure they are: losses, posteriors and masks against oracles by hand."""

import math

import pytest
import torch
from torch.distributions import Normal
from torch.nn.functional import silu

from mbrl_helpers.networks import (
    EnsembleNetwork,
    Normalizer,
    TrainingConfig,
    load_network,
    network_arrays,
    train_network,
)
from mbrl_helpers.probabilistic import (
    METHODS,
    DropoutNetwork,
    GaussianNetwork,
    gaussian_nll,
    last_layer_members,
    repeated,
    soft_clamp,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def shaken(network, seed=1):
    """The same with a last layer that is not zero, so that all weights matter."""
    rng = seeded(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=rng))
    return network


# --- Gaussian heads ------------------------------------------------------------------------------


def test_nll_is_that_of_a_normal_distribution():
    """Up to its constant; targets may be of all members, or of each."""
    out, target = torch.randn(3, 7, 4, generator=seeded()), torch.randn(7, 2, generator=seeded(1))
    normal = Normal(out[..., :2], (0.5 * out[..., 2:]).exp())
    for y in (target, torch.stack([target, 2 * target, 0 * target])):
        expected = -normal.log_prob(y).mean(1) - 0.5 * math.log(2 * math.pi)
        assert expected.shape == (3, 2)
        torch.testing.assert_close(gaussian_nll(out, y), expected)


def test_nll_is_lowest_at_the_true_mean_and_variance():
    target = 2 * torch.randn(500, 2, generator=seeded()) + torch.tensor([1.0, -3.0])
    log_var = target.var(0, correction=0).log()
    best = torch.cat([target.mean(0), log_var]).expand(1, 500, -1).clone().requires_grad_()
    (slope,) = torch.autograd.grad(gaussian_nll(best, target).sum(), best)
    torch.testing.assert_close(slope.sum(1), torch.zeros(1, 4), atol=1e-5, rtol=0)
    for column in range(4):
        for shift in (-0.1, 0.1):
            other = best.detach().clone()
            other[..., column] += shift
            worse = (gaussian_nll(other, target) - gaussian_nll(best, target))[0]
            assert worse[column % 2] > 2e-4
            assert worse[1 - column % 2] == 0  # the other number's loss is its own


@pytest.mark.parametrize(("low", "high"), [(-10.0, 0.5), (-3.0, 2.0)])
def test_soft_clamp_keeps_bounds_order_and_gradient(low, high):
    x = torch.linspace(-40, 40, 2001, requires_grad=True)
    low, high = torch.tensor(low), torch.tensor(high)
    y = soft_clamp(x, low, high)
    corner = (1 + (low - high).exp()).log()
    assert (y >= low).all()
    assert (y <= high + corner + 1e-6).all()
    assert (y.diff() >= 0).all()
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert (slope > 0).all()
    assert (slope <= 1).all()
    middle = (x.detach() > low + 2) & (x.detach() < high - 2)
    assert ((y - x)[middle].abs() < 0.2).all()  # in between it hardly changes anything
    torch.testing.assert_close(y[[0, -1]], torch.stack([low, high + corner]), atol=1e-4, rtol=0)


def test_gaussian_network_clamps_its_log_variances():
    network = shaken(GaussianNetwork(2, (3, 8, 2), seeded()))
    x = 100 * torch.randn(50, 3, generator=seeded(1))
    mean, log_var = network(x).chunk(2, -1)
    plain = EnsembleNetwork.forward(network, x)
    assert torch.equal(mean, plain[..., :2])
    low, high = network.min_log_var, network.max_log_var
    assert low.shape == high.shape == (2, 1, 2)
    torch.testing.assert_close(log_var, soft_clamp(plain[..., 2:], low, high))
    assert (log_var < high + 1e-3).all()
    assert (log_var >= low).all()
    assert plain[..., 2:].max() > high.max()  # there was something to clamp
    assert plain[..., 2:].min() < low.min()


def test_before_training_it_expects_the_data_as_they_are():
    """Mean 0, and a variance of about 1 in standard units."""
    out = GaussianNetwork(3, (4, 8, 2), seeded())(torch.randn(5, 4, generator=seeded()))
    assert torch.equal(out[..., :2], torch.zeros(3, 5, 2))
    assert (out[..., 2:].abs() < 1).all()


@pytest.mark.parametrize("scale", [[2.0, 0.5], [1e-3, 100.0]])
def test_folded_gaussian_network_takes_and_gives_raw_units(scale):
    network = shaken(GaussianNetwork(3, (4, 8, 2), seeded()))
    data = torch.randn(50, 4, generator=seeded()) * torch.tensor([0.1, 1, 10, 0]) + 3
    data = torch.cat([data, 1e3 * data])  # the latter at the bounds of the log-variance
    norm, scale, shift = Normalizer(data[:50]), torch.tensor(scale), torch.tensor([1.0, 100.0])
    folded = network.folded(norm, scale, shift)
    seen = norm.normalize(data) * ~norm.constant  # nothing has been learned of the last column
    with torch.no_grad():
        mean, log_var = network(seen).chunk(2, -1)
        raw_mean, raw_log_var = folded(data).chunk(2, -1)
    raw = Normal(mean, (0.5 * log_var).exp())
    torch.testing.assert_close(raw_mean, raw.mean * scale + shift, atol=1e-2, rtol=1e-4)
    torch.testing.assert_close((0.5 * raw_log_var).exp(), raw.stddev * scale, atol=0, rtol=1e-3)
    with torch.no_grad():  # the original is untouched
        torch.testing.assert_close(network(seen), torch.cat([mean, log_var], -1))


def test_gradient_of_one_gaussian_member_does_not_touch_the_others():
    network = shaken(GaussianNetwork(3, (4, 8, 2), seeded()))
    x, y = torch.randn(2, 20, 4, generator=seeded())
    gaussian_nll(network(x), y[:, :2])[1].sum().backward()
    for parameter in network.parameters():  # its own bounds among them
        touched = parameter.grad.flatten(1).abs().sum(1) > 0
        assert touched.tolist() == [False, True, False]


def test_learns_where_the_noise_is():
    """Five times as much on the right as on the left."""

    def data(num, seed):
        x = 4 * torch.rand(num, 1, generator=seeded(seed)) - 2
        std = torch.where(x > 0, 0.5, 0.1)
        return x, torch.sin(2 * x) + std * torch.randn(num, 1, generator=seeded(seed + 1))

    network = GaussianNetwork(3, (1, 32, 32, 1), seeded())
    config = TrainingConfig(max_updates=800, patience=100, learning_rate=1e-2)
    train_network(network, gaussian_nll, data(1000, 0), data(500, 2), seeded(), config,
                  score=network.gain_scale)  # fmt: skip
    x = torch.cat([torch.linspace(-1.9, -0.3, 50), torch.linspace(0.3, 1.9, 50)])[:, None]
    with torch.no_grad():
        mean, log_var = network(x).chunk(2, -1)
    std = (0.5 * log_var).exp()[..., 0].mean(0)
    assert 0.08 < std[:50].mean() < 0.12
    assert 0.42 < std[50:].mean() < 0.58
    assert (mean.mean(0) - torch.sin(2 * x)).abs()[:50].mean() < 0.05
    assert (mean.mean(0) - torch.sin(2 * x)).abs()[50:].mean() < 0.2


def test_a_gaussian_network_minimises_the_likelihood_of_what_varies():
    network = shaken(GaussianNetwork(3, (4, 8, 2), seeded()))
    out, target = network(torch.randn(20, 4, generator=seeded())), torch.randn(
        20, 2, generator=seeded(1)
    )  # fmt: skip
    both, first = torch.tensor([True, True]), torch.tensor([True, False])
    torch.testing.assert_close(network.loss(out, target, both), gaussian_nll(out, target))
    of_first = gaussian_nll(out[..., [0, 2]], target[:, :1])
    torch.testing.assert_close(network.loss(out, target, first), of_first)


def test_a_gain_of_a_likelihood_is_a_share_of_a_variance():
    """A likelihood's loss may be negative: halving the errors is a gain of three quarters."""
    loss = torch.tensor([0.3, 0.3 - math.log(2), -5.0])
    score = GaussianNetwork(3, (4, 2), seeded()).gain_scale(loss)
    assert (score > 0).all()
    assert score[1] == pytest.approx(0.25 * float(score[0]))
    plain = EnsembleNetwork(3, (4, 2), seeded())
    assert torch.equal(plain.gain_scale(loss), loss)


def test_moments_are_mean_and_standard_deviation():
    out = torch.randn(3, 7, 4, generator=seeded())
    mean, std = GaussianNetwork(3, (4, 2), seeded()).moments(out)
    assert torch.equal(mean, out[..., :2])
    torch.testing.assert_close(2 * std.log(), out[..., 2:])


@pytest.mark.parametrize("num_members", [1, 3])
def test_a_gaussian_network_survives_a_file_to_the_bit(num_members):
    """Folded and selected, as it is planned with; its bounds too."""
    sizes = (4, 16, 2)
    network = shaken(GaussianNetwork(4, sizes, seeded()))
    assert network.sizes == sizes
    norm = Normalizer(3 * torch.randn(50, 4, generator=seeded()))
    network = network.select(torch.arange(num_members)).folded(
        norm, torch.tensor([2.0, 0.1]), torch.tensor([1.0, -1.0])
    )
    again = GaussianNetwork(num_members, network.sizes, seeded(9))
    load_network(again, network_arrays(network))
    for num_rows in (1, 6, 300):
        x = torch.randn(num_rows, 4, generator=seeded(num_rows))
        assert torch.equal(again(x), network(x))


# --- Monte Carlo dropout -------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_units_that_are_off_are_made_up_for_on_average(rate):
    """With one hidden layer the output is linear in them: the expectation is exact."""
    network = shaken(DropoutNetwork((3, 16, 2), seeded(), rate=rate))
    x = torch.randn(4, 3, generator=seeded(1))
    many = network(x.repeat(20_000, 1)).detach().view(20_000, 4, 2)
    with torch.no_grad():
        expected = network(x)[0]
    error = many.std(0) / math.sqrt(20_000)
    assert ((many.mean(0) - expected).abs() < 5 * error).all()
    assert (error > 0).all()


def test_units_are_off_only_while_gradients_are_recorded():
    network = shaken(DropoutNetwork((3, 16, 2), seeded(), rate=0.3))
    x = torch.randn(4, 3, generator=seeded(1))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(network(x), network(x))
            assert torch.equal(network(x), EnsembleNetwork.forward(network, x))
    assert not torch.equal(network(x), network(x))


def hidden(network, x, masks):
    """Output of one network by hand, its hidden units multiplied by masks."""
    for weight, bias, mask in zip(network.weights[:-1], network.biases[:-1], masks, strict=True):
        x = silu(x @ weight[0] + bias[0]) * mask
    return x @ network.weights[-1][0] + network.biases[-1][0]


def test_dropout_uses_its_own_generator():
    before = torch.get_rng_state()
    network = shaken(DropoutNetwork((3, 16, 8, 2), seeded(), rate=0.25))
    x = torch.randn(4, 3, generator=seeded(1))
    network.generator.manual_seed(5)
    out = network(x)
    rng = seeded(5)
    masks = [(torch.rand(1, 4, size, generator=rng) >= 0.25) / 0.75 for size in (16, 8)]
    torch.testing.assert_close(out, hidden(network, x, masks))
    network.members(3)
    assert torch.equal(before, torch.get_rng_state())


def test_members_are_thinned_networks():
    """Each has the same units off for all rows, drawn once for each member and hidden layer."""
    network = shaken(DropoutNetwork((3, 16, 8, 2), seeded(), rate=0.25))
    original = [p.detach().clone() for p in network.parameters()]
    x = torch.randn(4, 3, generator=seeded(1))
    network.generator.manual_seed(5)
    members, rng = network.members(6), seeded(5)
    masks = [(torch.rand(6, size, 1, generator=rng) >= 0.25) / 0.75 for size in (16, 8)]
    expected = torch.stack(
        [hidden(network, x, [mask[e, :, 0] for mask in masks]) for e in range(6)]
    )
    torch.testing.assert_close(members(x), expected.detach())
    assert torch.equal(members(x), members(x))
    assert not torch.equal(members(x)[0], members(x)[1])
    assert all(map(torch.equal, network.parameters(), original))
    off = (network.members(2000).weights[1] == 0).all(-1).float().mean()
    assert off == pytest.approx(0.25, abs=0.02)


# --- Bayesian last layer -------------------------------------------------------------------------


def regression(num=40, noise=(0.1, 0.5), seed=2):
    """A network of one member, as if trained, and data of two noisy outputs."""
    network = shaken(EnsembleNetwork(1, (2, 4, 2), seeded()))
    x = torch.randn(num, 2, generator=seeded(seed))
    with torch.no_grad():
        target = network(x)[0] + torch.tensor(noise) * torch.randn(
            num, 2, generator=seeded(seed + 1)
        )
    return network, x, target


def posterior(network, x, target, prior_std):
    """Mean [M, D+1] and covariance [M, D+1, D+1] by the textbook, in float64."""
    weight, bias = network.weights[0][0].double().detach(), network.biases[0][0].double().detach()
    features = torch.cat([silu(x.double() @ weight + bias), torch.ones(len(x), 1).double()], 1)
    guess = network(x)[0].double().detach()
    means, covariances = [], []
    for m in range(target.shape[1]):
        noise = float((guess[:, m] - target[:, m]).square().mean())
        inverse = features.T @ features / noise + torch.eye(features.shape[1]) / prior_std**2
        covariances.append(torch.linalg.inv(inverse))
        means.append(covariances[-1] @ features.T @ target[:, m].double() / noise)
    return torch.stack(means), torch.stack(covariances)


def drawn(ensemble):
    """Last layers [M, E, D+1] of all members."""
    layers = torch.cat([ensemble.weights[-1], ensemble.biases[-1]], 1)  # [E, D+1, M]
    return layers.permute(2, 0, 1).double()


@pytest.mark.parametrize("prior_std", [1.0, 0.1])
def test_last_layers_come_from_the_posterior(prior_std):
    network, x, target = regression()
    num = 20_000
    ensemble = last_layer_members(network, x, target, num, seeded(9), prior_std=prior_std)
    mean, covariance = posterior(network, x, target, prior_std)
    for m, draws in enumerate(drawn(ensemble)):
        std = covariance[m].diagonal().sqrt()
        assert ((draws.mean(0) - mean[m]).abs() < 5 * std / math.sqrt(num)).all()
        error = torch.cov(draws.T) - covariance[m]
        # Of a sample covariance: sqrt((c_ij^2 + c_ii c_jj) / n).
        spread = ((covariance[m] ** 2 + torch.outer(std**2, std**2)) / num).sqrt()
        assert (error.abs() < 5 * spread).all()


def test_last_layers_tend_to_the_ridge_solution():
    """Their mean is it, and with much data nothing else is left."""
    network, x, target = regression(num=20_000)
    ensemble = last_layer_members(network, x, target, 50, seeded())
    mean, covariance = posterior(network, x, target, 1.0)
    assert covariance.abs().max() < 1e-2
    truth = drawn(repeated(network, 1))
    for m, draws in enumerate(drawn(ensemble)):
        torch.testing.assert_close(mean[m], truth[m, 0], atol=0.05, rtol=0)
        assert ((draws - mean[m]).abs() < 6 * covariance[m].diagonal().sqrt()).all()


def test_last_layer_members_share_all_but_the_last():
    network, x, target = regression()
    before = [p.detach().clone() for p in network.parameters()]
    ensemble = last_layer_members(network, x, target, 7, seeded())
    assert ensemble.num_members == 7
    assert not any(p.requires_grad for p in ensemble.parameters())
    assert torch.equal(ensemble.weights[0], network.weights[0].expand(7, -1, -1))
    assert torch.equal(ensemble.biases[0], network.biases[0].expand(7, -1, -1))
    assert len(ensemble.weights[-1].unique(dim=0)) == 7
    assert all(map(torch.equal, network.parameters(), before))
    again = last_layer_members(network, x, target, 7, seeded())
    other = last_layer_members(network, x, target, 7, seeded(1))
    assert torch.equal(again.weights[-1], ensemble.weights[-1])
    assert not torch.equal(other.weights[-1], ensemble.weights[-1])


def test_prior_and_distance_widen_the_spread():
    network, x, target = regression()
    narrow, wide = (
        last_layer_members(network, x, target, 500, seeded(), prior_std=std) for std in (0.05, 5.0)
    )
    assert (wide(x).std(0).mean(0) > 1.1 * narrow(x).std(0).mean(0)).all()
    near, far = (wide(reach * x).std(0).mean(0) for reach in (1, 10))
    assert (far > 3 * near).all()


def test_without_any_noise_the_posterior_is_still_there():
    """Residuals of exactly zero: the variance that is divided by is not."""
    network, x, _ = regression()
    ensemble = last_layer_members(network, x, network(x)[0].detach(), 5, seeded())
    torch.testing.assert_close(ensemble(x), network(x).detach().expand(5, -1, -1),
                               atol=1e-2, rtol=0)  # fmt: skip


# --- copies --------------------------------------------------------------------------------------


def test_repeated_is_the_same_network_many_times():
    network = shaken(EnsembleNetwork(1, (3, 8, 4, 2), seeded()))
    copies = repeated(network, 5)
    x = torch.randn(5, 6, 3, generator=seeded())
    assert copies.num_members == 5
    for e in range(5):
        torch.testing.assert_close(copies(x)[e], network(x[e])[0].detach())
    with torch.no_grad():  # and of its own
        copies.weights[0][2] += 1
    assert not torch.allclose(copies(x)[2], network(x[2])[0])
    torch.testing.assert_close(copies(x)[1], network(x[1])[0].detach())


@pytest.mark.parametrize("kind", [EnsembleNetwork, GaussianNetwork])
@pytest.mark.parametrize("members", [[2], [3, 1], [0, 0, 2]])
def test_select_picks_members(kind, members):
    network = shaken(kind(4, (3, 8, 2), seeded()))
    chosen = network.select(torch.tensor(members))
    x = 10 * torch.randn(6, 3, generator=seeded())
    assert chosen.num_members == len(members)
    torch.testing.assert_close(chosen(x), network(x)[members].detach())
    layouts = [[w.stride(-1) == 1 for w in net.weights] for net in (network, chosen)]
    assert layouts[0] == layouts[1]  # as fast as before
    with torch.no_grad():
        chosen.weights[0].zero_()
    assert network.weights[0].abs().min() > 0
    assert not any(p.requires_grad for p in chosen.parameters())


# --- methods -------------------------------------------------------------------------------------


def test_forward_and_features_agree_for_every_kind():
    """The last layer of the features: of a thinned network too, of the same units."""
    x = torch.randn(5, 3, generator=seeded(1))
    dropout = shaken(DropoutNetwork((3, 16, 2), seeded(), rate=0.5))
    for network in (shaken(EnsembleNetwork(1, (3, 16, 2), seeded())), dropout):
        for grad in (False, True):
            with torch.set_grad_enabled(grad):
                seeds = [dropout.generator.manual_seed(4) and network(x)]
                dropout.generator.manual_seed(4)
                features = network.features(x)
            last = torch.baddbmm(network.biases[-1], features, network.weights[-1])
            assert torch.equal(seeds[0], last)
    gaussian = shaken(GaussianNetwork(1, (3, 16, 2), seeded()))
    mean = torch.baddbmm(gaussian.biases[-1], gaussian.features(x), gaussian.weights[-1])[..., :2]
    assert torch.equal(gaussian(x)[..., :2], mean)


def test_only_members_trained_apart_can_be_chosen_or_gaussian():
    assert {name: method.apart for name, method in METHODS.items()} == {
        "ensemble": True, "dropout": False, "last_layer": False
    }  # fmt: skip
