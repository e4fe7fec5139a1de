"""Policies: what they draw, how probable they say it is, learning from a teacher, and files."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from mbrl_helpers import saving
from mbrl_helpers.actions import Actions
from mbrl_helpers.envs import Task, get_task
from mbrl_helpers.networks import TrainingConfig
from mbrl_helpers.policies import Categorical, Head, Policy, SquashedGaussian, distill
from mbrl_helpers.probabilistic import soft_clamp

CARTPOLE, PENDULUM = get_task("CartPole-v1"), get_task("Pendulum-v1")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def experience(task, num=200):
    return np.random.default_rng(0).normal(1, 2, (num, len(task.obs_names))).astype(np.float32)


def make(task, *, spread=True, seed=0):
    """A policy; with spread, one that no longer does the same everywhere."""
    policy = Policy(task, experience(task), seeded(seed))
    if spread:
        with torch.no_grad():
            shape = policy.network.weights[-1].shape
            policy.network.weights[-1].copy_(0.5 * torch.randn(shape, generator=seeded(7)))
    return policy


def test_new_policies_prefer_nothing():
    obs = torch.tensor(experience(PENDULUM))
    assert torch.equal(make(PENDULUM, spread=False).action(obs), torch.zeros(200, 1))
    obs = torch.tensor(experience(CARTPOLE))
    actions, log_prob = make(CARTPOLE, spread=False).sample(obs.expand(50, -1, -1), seeded())
    assert log_prob.detach().exp().mean() == pytest.approx(0.5)
    assert actions.detach().mean((0, 1)).tolist() == pytest.approx([0.5, 0.5], abs=0.02)


def test_log_probability_of_squashed_actions_is_that_of_pytorch():
    policy, obs = make(PENDULUM), torch.tensor(experience(PENDULUM))
    action, log_prob = policy.sample(obs, seeded())
    mean, log_std = policy._outputs(obs).double().chunk(2, -1)
    std = soft_clamp(log_std, torch.tensor(-5.0), torch.tensor(2.0)).exp()
    oracle = TransformedDistribution(Normal(mean, std), TanhTransform())
    inside = action.abs() < 1.99  # closer to the bounds the oracle itself is unsure
    expected = oracle.log_prob(action.double() / 2)[inside]
    assert len(expected) > 100
    torch.testing.assert_close(log_prob[inside[:, 0]].double(), expected, atol=1e-3, rtol=1e-3)


def test_discrete_actions_are_drawn_as_often_as_their_probabilities_say():
    policy, obs = make(CARTPOLE), torch.tensor(experience(CARTPOLE, 5))
    actions, log_prob = policy.sample(obs.expand(20_000, -1, -1), seeded())
    assert set(actions.detach().round(decimals=4).unique().tolist()) == {0.0, 1.0}
    shares = actions.detach().mean(0)  # [5, 2]
    probs = torch.softmax(policy._outputs(obs), -1).detach()
    torch.testing.assert_close(shares, probs, atol=0.015, rtol=0)
    said = torch.where(actions[..., 0] > 0.5, probs[:, 0], probs[:, 1])
    torch.testing.assert_close(log_prob.exp(), said.detach())


def test_gradient_of_a_choice_is_that_of_its_probability():
    policy, obs = make(CARTPOLE), torch.tensor(experience(CARTPOLE, 5))
    chosen = policy.action(obs)
    parameters = list(policy.network.parameters())
    ours = torch.autograd.grad(chosen[:, 0].sum(), parameters)
    oracle = torch.autograd.grad(torch.softmax(policy._outputs(obs), -1)[:, 0].sum(), parameters)
    for a, b in zip(ours, oracle, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("task", [CARTPOLE, PENDULUM], ids=["discrete", "continuous"])
def test_it_acts_by_the_most_probable_action_within_the_bounds(task):
    policy, obs = make(task), experience(task)
    acted = policy.act(obs)
    encoded = policy.action(torch.tensor(obs))
    for action, row in zip(acted, encoded, strict=True):
        assert task.action_space.contains(action)
        expected = row.argmax() if task is CARTPOLE else row
        assert np.allclose(action, expected.detach().numpy())
    assert len(np.unique(acted)) > 1
    policy.reset(), policy.reset(np.array([True]))
    assert np.array_equal(policy.act(obs), acted)  # it has no memory


@pytest.mark.parametrize("task", [CARTPOLE, PENDULUM], ids=["discrete", "continuous"])
@pytest.mark.parametrize("shape", [(4, 50), (200, 1), (1, 2, 100), (2, 2, 5, 10)])
def test_leading_axes_make_no_difference(task, shape):
    policy, obs = make(task), torch.tensor(experience(task))
    many = obs.view(*shape, -1)
    size = task.actions.size
    torch.testing.assert_close(policy.action(many), policy.action(obs).view(*shape, size))
    for flat, other in zip(
        policy.sample(obs, seeded()), policy.sample(many, seeded()), strict=True
    ):
        torch.testing.assert_close(other, flat.view(other.shape))
    assert policy.sample(many, seeded())[1].shape == shape
    flat, other = (policy.disturbed(o, 0.3, seeded()) for o in (obs, many))
    torch.testing.assert_close(other, flat.view(*shape, size))


@pytest.mark.parametrize("task", [CARTPOLE, PENDULUM], ids=["discrete", "continuous"])
def test_one_observation_needs_no_leading_axis(task):
    policy, obs = make(task), torch.tensor(experience(task))[3]
    size = task.actions.size
    action, (drawn, log_prob) = policy.action(obs), policy.sample(obs, seeded())
    assert action.shape == drawn.shape == (size,) and log_prob.shape == ()
    torch.testing.assert_close(action, policy.action(obs[None])[0])
    torch.testing.assert_close(drawn, policy.sample(obs[None], seeded())[0][0])
    disturbed = policy.disturbed(obs, 0.3, seeded())
    torch.testing.assert_close(disturbed, policy.disturbed(obs[None], 0.3, seeded())[0])


# --- heads ---------------------------------------------------------------------------------------


def test_the_kind_of_actions_decides_the_head():
    assert isinstance(make(CARTPOLE).head, Categorical)
    assert isinstance(make(PENDULUM).head, SquashedGaussian)
    assert Head.of(Actions.of(Discrete(5, start=3))).num_outputs == 5
    assert Head.of(Actions.of(Box(-1, 1, (3,)))).num_outputs == 6


def test_choices_without_chance_are_the_most_probable():
    head, out = Head.of(Actions.of(Discrete(4))), torch.randn(3, 7, 4, generator=seeded())
    mode = head.mode(out)
    torch.testing.assert_close(mode, torch.eye(4)[out.argmax(-1)])
    # Whatever the noise, choices are drawn:
    for noise in (0.0, 5.0):
        drawn, _ = head.sample(out, seeded(1))
        assert torch.equal(head.disturbed(out, noise, seeded(1)), drawn)


def test_a_squashed_gaussian_acts_by_its_median():
    """Of its draws as many lie below as above, in bounds that are not symmetric, too."""
    space = Box(np.float32([-2, 0]), np.float32([2, 10]))
    head = Head.of(Actions.of(space))
    out = torch.tensor([0.3, -0.5, -1.0, 0.2])
    median = head.mode(out)
    torch.testing.assert_close(median, torch.tensor([0, 5]) + torch.tensor([2, 5]) * out[:2].tanh())
    drawn, log_prob = head.sample(out.expand(40_000, -1), seeded())
    assert drawn.shape == (40_000, 2) and log_prob.shape == (40_000,)
    torch.testing.assert_close((drawn < median).float().mean(0), torch.full((2,), 0.5), atol=0.01,
                               rtol=0)  # fmt: skip
    head.check("here", drawn)


@pytest.mark.parametrize("noise", [0.0, 0.3, 10.0])
def test_disturbed_numbers_stay_near_and_within_the_bounds(noise):
    policy, obs = make(PENDULUM), torch.tensor(experience(PENDULUM))
    action, near = policy.action(obs), policy.disturbed(obs, noise, seeded())
    white = torch.randn(action.shape, generator=seeded())
    torch.testing.assert_close(near, (action + noise * 2 * white).clamp(-2, 2))


def test_losses_are_those_by_hand():
    out, size = torch.randn(1, 6, 4, generator=seeded()), 4
    target = torch.eye(size)[torch.arange(6) % size]
    ours = Head.of(Actions.of(Discrete(size))).loss(out, target)
    oracle = torch.nn.functional.cross_entropy(out[0], target.argmax(-1))
    torch.testing.assert_close(ours, oracle[None, None])
    head = Head.of(Actions.of(Box(-3, 3, (2,))))
    actions = torch.rand(6, 2, generator=seeded(1)) * 6 - 3
    torch.testing.assert_close(
        head.loss(out, actions), (out[0, :, :2].tanh() - actions / 3).square().mean(0)[None]
    )


# --- distillation --------------------------------------------------------------------------------


def test_a_student_does_what_its_teacher_did():
    obs = torch.randn(600, 3, generator=seeded(1)) * torch.tensor([1.0, 1.0, 4.0])
    actions = 2 * torch.tanh(obs[:, :1] - 0.5 * obs[:, 2:])
    policy = Policy(PENDULUM, obs.numpy(), seeded())
    history = distill(policy, obs, actions, seeded(2), TrainingConfig(max_updates=600))
    error = (policy.action(obs) - actions).square().mean()
    assert error < 0.02 * actions.var()
    assert history["validation"][-1] < 0.1 * history["validation"][0]


def test_a_student_learns_choices():
    obs = torch.randn(600, 4, generator=seeded(1))
    choice = (obs[:, 2] + obs[:, 3] > 0).long()
    actions = torch.eye(2)[choice]
    policy = Policy(CARTPOLE, obs.numpy(), seeded())
    distill(policy, obs, actions, seeded(2), TrainingConfig(max_updates=300))
    assert (policy.action(obs).argmax(-1) == choice).float().mean() > 0.95


# --- bad input -----------------------------------------------------------------------------------


def test_foreign_experience_is_refused():
    with pytest.raises(ValueError, match=r"Policy: expected observations \[B, 3\], got shape"):
        Policy(PENDULUM, experience(CARTPOLE), seeded())
    bad = experience(PENDULUM)
    bad[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"Policy: expected finite observations.*row 3"):
        Policy(PENDULUM, bad, seeded())
    with pytest.raises(TypeError, match=r"Policy: .* got Tensor\. Pass obs.numpy\(\)"):
        Policy(PENDULUM, torch.tensor(experience(PENDULUM)), seeded())


@pytest.mark.parametrize(
    ("sizes", "error", "says"),
    [(64, TypeError, "hidden_sizes as a tuple .* got 64"), ((0,), ValueError, r"hidden_sizes\[0\]"),
     ((8, 2.5), TypeError, r"hidden_sizes\[1\] as an int, got 2.5")],
)  # fmt: skip
def test_widths_that_make_no_sense(sizes, error, says):
    with pytest.raises(error, match=f"Policy: expected {says}"):
        Policy(PENDULUM, experience(PENDULUM), seeded(), hidden_sizes=sizes)


def test_a_policy_needs_bounds():
    """Without them there is not even a task."""
    with pytest.raises(ValueError, match="Task: expected an action space with finite bounds"):
        Task(env_id="Slope", obs_names=("height",), space=Box(-np.inf, np.inf, (1,)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_acting_on_what_is_not_a_finite_observation_is_refused(value):
    policy = make(PENDULUM)
    with pytest.raises(ValueError, match=r"Policy.act: expected finite observations.*row 1\."):
        policy.act(np.array([[1, 0, 0], [1, value, 0]], np.float32))
    with pytest.raises(ValueError, match=r"Policy.act: .*got shape \(3,\)"):
        policy.act(np.array([1, 0, 0], np.float32))
    with pytest.raises(TypeError, match=r"Policy.act: .* got list\. Pass np.array\(obs\)"):
        policy.act([[1.0, 0.0, 0.0]])
    with pytest.raises(TypeError, match=r"Policy.act: .* got Tensor\. Pass obs.numpy\(\)"):
        policy.act(torch.zeros(1, 3))


def test_actions_out_of_bounds_are_refused():
    policy, obs = make(PENDULUM), torch.tensor(experience(PENDULUM))
    for bad in (2.5, torch.nan):
        with pytest.raises(ValueError, match="distill: expected actions within the bounds"):
            distill(policy, obs, torch.full((200, 1), bad), seeded())


def test_wrong_shapes_of_lessons_are_refused():
    policy, obs = make(CARTPOLE), torch.tensor(experience(CARTPOLE))
    with pytest.raises(ValueError, match=r"distill: expected .* actions \[T, 2\]"):
        distill(policy, obs, torch.zeros(200, 1), seeded())
    with pytest.raises(ValueError, match="distill: expected at least 2 observations"):
        distill(policy, obs[:1], torch.eye(2)[:1], seeded())


def test_experience_must_be_there_and_finite():
    with pytest.raises(ValueError, match=r"Policy: expected experience \[T, 3\].* got no row"):
        Policy(PENDULUM, np.zeros((0, 3), np.float32), seeded())
    obs = torch.tensor(experience(PENDULUM))
    obs[5, 0] = torch.nan
    actions = torch.zeros(len(obs), 1)
    with pytest.raises(ValueError, match=r"distill: expected finite observations.* row 5"):
        distill(make(PENDULUM), obs, actions, seeded())
    with pytest.raises(TypeError, match=r"distill: expected actions as a torch tensor"):
        distill(make(PENDULUM), obs, actions.numpy(), seeded())
    with pytest.raises(TypeError, match=r"distill: expected states as a torch tensor"):
        distill(make(PENDULUM), obs.numpy(), actions, seeded())


def test_an_action_that_cannot_move_stays():
    space = Box(np.float32([-1, 2]), np.float32([1, 2]))
    task = Task(env_id="Slope", obs_names=("height",), space=space)
    policy = Policy(task, experience(task), seeded())
    with torch.no_grad():
        policy.network.biases[-1].fill_(3.0)
    obs = torch.tensor(experience(task))
    for action in (policy.action(obs), policy.sample(obs, seeded())[0],
                   policy.disturbed(obs, 0.5, seeded())):  # fmt: skip
        assert (action[:, 1] == 2).all() and action.isfinite().all()
    assert torch.equal(task.actions.unit(action)[:, 1], torch.zeros(200))
    distill(policy, obs, action.detach(), seeded(), TrainingConfig(max_updates=2))


# --- files ---------------------------------------------------------------------------------------

PLAY = """
import sys
import numpy as np, torch
from mbrl_helpers import Policy
torch.set_num_threads(1)
policy = Policy.load(sys.argv[1])
np.save(sys.argv[3], policy.act(np.load(sys.argv[2])))
"""

OWN = [
    Task(env_id="NoSuchTask-v0", obs_names=("height", "speed"),
         space=Box(np.float32([-1, 0]), np.float32([1, 3]))),
    Task(env_id="NoSuchTask-v0", obs_names=("height", "speed"), space=Discrete(3, start=-1)),
    Task(env_id="Pendulum-v1", obs_names=("c", "s", "w"), angles=()),
]  # fmt: skip


def parts(policy):
    return [*policy.network.parameters(), policy.inputs.mean, policy.inputs.std]


@pytest.mark.parametrize("task", [CARTPOLE, PENDULUM, *OWN])
def test_a_file_keeps_a_policy_to_the_bit(task, tmp_path):
    """Of a task that nobody has registered, too: what it needs to know is in the file."""
    policy, path = make(task), tmp_path / "policy.npz"
    obs = torch.tensor(experience(task))
    policy.save(path)
    again = Policy.load(path)
    for one, other in zip(parts(policy), parts(again), strict=True):
        assert torch.equal(one, other) and one.dtype == other.dtype
    assert torch.equal(policy.action(obs), again.action(obs))
    for one, other in zip(policy.sample(obs, seeded()), again.sample(obs, seeded()), strict=True):
        assert torch.equal(one, other)
    np.testing.assert_array_equal(policy.act(obs.numpy()), again.act(obs.numpy()))
    assert again.act(obs.numpy()).dtype == policy.act(obs.numpy()).dtype
    assert (again.task is task) == (task in (CARTPOLE, PENDULUM))
    assert again.task.obs_names == task.obs_names
    assert again.task.action_space == task.action_space
    assert again.hidden_sizes == policy.hidden_sizes
    again.save(path)  # over an older one of its kind
    assert torch.equal(Policy.load(path).action(obs), policy.action(obs))
    assert [file.name for file in tmp_path.iterdir()] == ["policy.npz"]


@pytest.mark.parametrize("hidden_sizes", [(), (5,), (8, 4, 2), [7, 3]])
def test_a_file_keeps_the_widths(hidden_sizes, tmp_path):
    policy = Policy(PENDULUM, experience(PENDULUM), seeded(), hidden_sizes=hidden_sizes)
    policy.save(str(tmp_path / "policy.npz"))
    again = Policy.load(str(tmp_path / "policy.npz"))
    assert again.network.sizes == policy.network.sizes == (3, *hidden_sizes, 2)


@pytest.mark.parametrize("task", [PENDULUM, OWN[1]], ids=["Pendulum", "own"])
def test_it_acts_the_same_in_another_process(task, tmp_path):
    policy, obs = make(task), experience(task)
    files = [tmp_path / name for name in ("policy.npz", "obs.npy", "actions.npy")]
    policy.save(files[0])
    np.save(files[1], obs)
    subprocess.run([sys.executable, "-c", PLAY, *map(str, files)], check=True)
    np.testing.assert_array_equal(np.load(files[2]), policy.act(obs))


def test_a_loaded_policy_goes_on_learning(tmp_path):
    """Exactly as the one that was saved."""
    policy, obs = make(PENDULUM), torch.tensor(experience(PENDULUM))
    policy.save(tmp_path / "policy.npz")
    again = Policy.load(tmp_path / "policy.npz")
    for student in (policy, again):
        config = TrainingConfig(max_updates=20)
        distill(student, obs, torch.full((200, 1), 1.0), seeded(), config)
    assert torch.equal(policy.action(obs), again.action(obs))


@pytest.fixture
def saved(tmp_path):
    make(PENDULUM).save(tmp_path / "policy.npz")
    return tmp_path / "policy.npz"


def rewritten(path, change):
    """Put a file's arrays back after a change of them, and of the header."""
    with np.load(path) as file:
        arrays = dict(file)
    header = json.loads(str(arrays.pop("header")))
    change(header, arrays)
    with path.open("wb") as file:
        np.savez_compressed(file, header=np.array(json.dumps(header)), **arrays)


def test_no_file():
    with pytest.raises(FileNotFoundError, match=r"Policy.load: .*nothing.npz"):
        Policy.load("nothing.npz")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_off(saved, share):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"Policy.load: .*policy.npz .*save it again"):
        Policy.load(saved)


@pytest.mark.parametrize("at", [0.3, 0.6])
def test_a_file_with_a_broken_byte(saved, at):
    """The archive's check sums find it."""
    content = bytearray(saved.read_bytes())
    for i in range(8):
        content[int(at * len(content)) + i] ^= 0xFF
    saved.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"Policy.load: .*policy.npz"):
        Policy.load(saved)


def test_a_foreign_file(saved, tmp_path):
    foreign = tmp_path / "foreign.npz"
    np.savez(foreign, weights=np.zeros(3))
    text = tmp_path / "text.npz"
    text.write_text("to be, or not to be")
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, header=np.array([{"a": 1}], dtype=object))
    for path in (foreign, text, pickled):
        content = path.read_bytes()
        with pytest.raises(ValueError, match=rf"Policy.load: .*{path.name}"):
            Policy.load(path)
        with pytest.raises(ValueError, match=r"Policy.save: .*Choose another name, or remove"):
            make(PENDULUM).save(path)
        assert path.read_bytes() == content


def test_another_kind_of_file(tmp_path):
    path = tmp_path / "thing.npz"
    saving.save("here", path, "transitions", {}, {"obs": np.zeros(3)})
    with pytest.raises(ValueError, match=r"Policy.load: .*thing.npz .*transitions, not policy"):
        Policy.load(path)
    with pytest.raises(ValueError, match=r"Policy.save: .*policy.*thing.npz, which is something"):
        make(PENDULUM).save(path)


def test_a_newer_file(saved):
    def change(header, arrays):
        header["format"], header["version"] = saving.FORMAT + 1, "99.0"

    rewritten(saved, change)
    with pytest.raises(ValueError, match=r"Policy.load: .*policy.npz .*99.0, which is newer"):
        Policy.load(saved)


@pytest.mark.parametrize(
    "change",
    [
        lambda header, arrays: arrays.pop("inputs/mean"),
        lambda header, arrays: arrays.pop(next(name for name in arrays if "network" in name)),
        lambda header, arrays: arrays.update(
            {name: value[:, :1] for name, value in arrays.items() if "network" in name}
        ),
        lambda header, arrays: header["settings"].pop("task"),
        lambda header, arrays: header["settings"].pop("hidden_sizes"),
        lambda header, arrays: header["settings"].update(hidden_sizes=[3]),
        lambda header, arrays: header.pop("settings"),
        lambda header, arrays: header.pop("format"),
    ],
    ids=["no mean", "no weights", "other weights", "no task", "no widths", "other widths",
         "no settings", "no format"],
)  # fmt: skip
def test_a_file_of_which_something_is_missing(saved, change):
    rewritten(saved, change)
    with pytest.raises(ValueError, match=r"Policy.load: .*policy.npz"):
        Policy.load(saved)
