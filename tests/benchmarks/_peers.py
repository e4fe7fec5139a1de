"""Other people's planners, each as a callable without arguments that makes one decision.

A function returns None where its library can't be imported. The callables give the first action
[A], so that a caller can time several in turn: milliseconds on a shared machine drift, and ratios
of interleaved runs less so. Everything here is measured as a decision in the middle of an episode,
after a call to warm up. All but `mbrl_lib_cem` plan with the same `StepNetwork`.

Versions measured, in an environment of their own together with the course's package:

    pip install torch==2.13.0 gymnasium[classic-control]==1.4.0
    pip install torch==2.13.0 torchrl==0.14.1 pytorch-mppi==0.9.1
    pip install --no-deps mbrl==0.2.0  # its pins of hydra, omegaconf and gymnasium are too old
    pip install torch==2.13.0 hydra-core==1.3.2 omegaconf==2.3.1 termcolor tqdm
    pip install --no-deps stable-baselines3==2.9.2  # for model_free.py; it would pull in more
    pip install pandas==3.1.1 cloudpickle matplotlib  # which it imports
    pip install sbx-rl==0.28.0  # for model_free.py's rivals of today
    pip install --no-deps sb3-contrib==2.9.2  # for hidden_model_free.py
    pip install scikit-learn==1.9.1  # for classics.py

`python tests/benchmarks/_peers.py` prints what each takes, and how fast the machine multiplies.

Axes: N candidates, H horizon, O observation, A action.
"""

import itertools
import statistics
import time
from collections.abc import Callable

import torch
from _common import machine  # and one thread
from torch import Tensor, nn

from mbrl_helpers.data import Transitions

StepReward = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Decision = Callable[[], Tensor]


class StepNetwork(nn.Module):
    """Random frozen network: obs [N, O] and action [N, A] to next obs [N, O] and reward [N]."""

    def __init__(self, num_obs: int = 3, num_actions: int = 1, hidden_sizes=(200, 200), seed=0):
        super().__init__()
        sizes = (num_obs + num_actions, *hidden_sizes, num_obs + 1)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            layers = [nn.Linear(*pair) for pair in itertools.pairwise(sizes)]
        hidden = [part for layer in layers[:-1] for part in (layer, nn.SiLU(inplace=True))]
        self.network = nn.Sequential(*hidden, layers[-1]).requires_grad_(False)

    def forward(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        out = self.network(torch.cat([obs, action], dim=-1))
        return obs + out[..., :-1], out[..., -1]


def plain_torch_cem(
    step_reward: StepReward,
    obs: Tensor,
    *,
    population: int = 500,
    horizon: int = 15,
    iterations: int = 5,
    num_elites: int = 50,
    low: Tensor,
    high: Tensor,
) -> Decision:
    """CEM in plain torch, as one would write it with care: all candidates in one batch.

    Args:
        step_reward: the model, such as a `StepNetwork`.
        obs: [O] where to plan from.
        population: candidates an iteration.
        horizon: steps.
        iterations: rounds of sampling and refitting.
        num_elites: candidates to which the Gaussian is refitted.
        low: [A] lower bounds of the action.
        high: [A] upper bounds.
    """

    @torch.inference_mode()
    def decide() -> Tensor:
        mean = ((low + high) / 2).expand(horizon, 1, -1)
        std = ((high - low) / 2).expand(horizon, 1, -1)
        for _ in range(iterations):
            noise = torch.randn(horizon, population, len(low))  # a step's actions lie together
            actions = torch.addcmul(mean, std, noise).clamp_(low, high)
            state, returns = obs.expand(population, -1), torch.zeros(population)
            for action in actions:
                state, reward = step_reward(state, action)
                returns += reward
            elites = actions[:, returns.topk(num_elites, sorted=False).indices]
            std, mean = torch.std_mean(elites, dim=1, keepdim=True)
        return mean[0, 0]

    return decide


def torchrl_cem(
    step_reward: StepReward,
    obs: Tensor,
    *,
    population: int = 500,
    horizon: int = 15,
    iterations: int = 5,
    num_elites: int = 50,
    low: Tensor,
    high: Tensor,
) -> Decision | None:
    """torchrl's CEMPlanner; arguments as of `plain_torch_cem`.

    Its planner takes an environment, here one around the model. It starts from mean 0 and
    deviation 1 whatever the bounds, clips, and refits the same numbers. `inference_mode` is ours:
    it makes it a little faster.
    """
    try:
        from tensordict import TensorDict
        from tensordict.nn import TensorDictModule
        from torchrl.data import Bounded, Composite, Unbounded
        from torchrl.envs.model_based import ModelBasedEnvBase
        from torchrl.modules import CEMPlanner
    except ImportError:
        return None

    class Imagined(ModelBasedEnvBase):
        def __init__(self, world_model):
            super().__init__(world_model)
            self.observation_spec = Composite(obs=Unbounded(obs.shape))
            self.state_spec = Composite(obs=Unbounded(obs.shape))
            self.action_spec = Bounded(low, high, low.shape)
            self.reward_spec = Unbounded((1,))

        def _reset(self, tensordict, **_):
            return TensorDict({"obs": obs.clone()}, self.batch_size)

    def with_reward_axis(state, action):
        next_state, reward = step_reward(state, action)
        return next_state, reward[..., None]

    world_model = TensorDictModule(
        with_reward_axis, in_keys=["obs", "action"], out_keys=["obs", "reward"]
    )
    planner = CEMPlanner(Imagined(world_model), horizon, iterations, population, num_elites)

    @torch.inference_mode()
    def decide() -> Tensor:
        return planner(TensorDict({"obs": obs}, []))["action"]

    return decide


def pytorch_mppi(
    step_reward: StepReward,
    obs: Tensor,
    *,
    population: int = 500,
    horizon: int = 15,
    temperature: float = 1.0,
    low: Tensor,
    high: Tensor,
) -> Decision | None:
    """pytorch-mppi's MPPI, one iteration: 7,500 model calls as it stands.

    It asks for the next state and for its cost in two calls, where the model says both at once: the
    cost is kept from the first. It has no `no_grad`: without `inference_mode`, which is ours, the
    parameters of a model must be frozen, or its graph grows from call to call.

    Args:
        step_reward: the model, such as a `StepNetwork`.
        obs: [O] where to plan from.
        population: samples.
        horizon: steps.
        temperature: called lambda_ there.
        low: [A] lower bounds of the action; the noise's deviation is a quarter of the range.
        high: [A] upper bounds.
    """
    try:
        from pytorch_mppi import MPPI
    except ImportError:
        return None
    cost = None

    def dynamics(state, action):
        nonlocal cost
        next_state, reward = step_reward(state, action)
        cost = -reward
        return next_state

    controller = MPPI(
        dynamics,
        lambda next_state, action: cost,
        nx=len(obs),
        noise_sigma=torch.diag(((high - low) / 4) ** 2),  # a covariance
        num_samples=population,
        horizon=horizon,
        lambda_=temperature,
        u_min=low,
        u_max=high,
    )
    return torch.inference_mode()(lambda: controller.command(obs))


def mbrl_lib_cem(
    *,
    population: int = 500,
    horizon: int = 15,
    iterations: int = 5,
    elite_ratio: float = 0.1,
    num_members: int = 5,
    num_layers: int = 3,
    hidden_size: int = 200,
    activation: str = "torch.nn.LeakyReLU",
    num_particles: int = 20,
) -> Decision | None:
    """mbrl-lib's CEM with the settings of its PETS notebook, untrained: 750,000 model calls.

    Those are Gaussian networks with LeakyReLU on continuous CartPole (4 numbers and 1 action),
    whose changes they predict from normalised inputs; particles that each stay with one
    member; reward and termination given; momentum 0.1; the mean of the elites executed.
    Allocating takes up to 40 % of its time, more or less by what ran before in the same process.
    `_recursive_` keeps hydra 1.3 from making the optimiser before the agent fills in its bounds.

    Args:
        population: candidates an iteration.
        horizon: steps.
        iterations: rounds of sampling and refitting.
        elite_ratio: share of the candidates to which the Gaussian is refitted.
        num_members: networks.
        num_layers: hidden layers.
        hidden_size: their width.
        activation: between the layers; its notebook says LeakyReLU, others "torch.nn.SiLU".
        num_particles: rollouts of one candidate, a multiple of num_members over the population.
    """
    try:
        import omegaconf
        from mbrl.env import reward_fns, termination_fns
        from mbrl.env.cartpole_continuous import CartPoleEnv
        from mbrl.models import GaussianMLP, ModelEnv, OneDTransitionRewardModel
        from mbrl.planning import create_trajectory_optim_agent_for_model
    except ImportError:
        return None
    env = CartPoleEnv()
    network = GaussianMLP(
        in_size=5,
        out_size=4,
        device="cpu",
        num_layers=num_layers,
        ensemble_size=num_members,
        hid_size=hidden_size,
        propagation_method="fixed_model",
        activation_fn_cfg={"_target_": activation},
    )
    model = OneDTransitionRewardModel(
        network, target_is_delta=True, normalize=True, learned_rewards=False
    )
    imagined = ModelEnv(env, model, termination_fns.cartpole, reward_fns.cartpole)
    settings = {
        "_target_": "mbrl.planning.TrajectoryOptimizerAgent",
        "_recursive_": False,
        "planning_horizon": horizon,
        "action_lb": "???",
        "action_ub": "???",
        "optimizer_cfg": {
            "_target_": "mbrl.planning.CEMOptimizer",
            "num_iterations": iterations,
            "elite_ratio": elite_ratio,
            "population_size": population,
            "alpha": 0.1,
            "device": "cpu",
            "lower_bound": "???",
            "upper_bound": "???",
            "return_mean_elites": True,
            "clipped_normal": False,
        },
    }
    agent = create_trajectory_optim_agent_for_model(
        imagined, omegaconf.OmegaConf.create(settings), num_particles=num_particles
    )
    obs = torch.tensor([0.01, 0.02, 0.03, -0.02]).numpy()
    return lambda: torch.from_numpy(agent.act(obs))


def mbrl_lib_training(
    data: Transitions,
    *,
    batch_size: int,
    num_epochs: int,
    num_members: int = 5,
    num_layers: int = 3,
    hidden_size: int = 200,
    activation: str = "torch.nn.SiLU",
    learning_rate: float = 1e-3,
) -> Callable[[], object] | None:
    """mbrl-lib's trainer on its Gaussian networks, from new ones each time.

    Changes and rewards are learned from normalised inputs, each member's rows are drawn with
    replacement, the bounds of the variances are learned; Adam without decay, and no evaluation:
    all as its PETS example does it but for the last, which is left out of ours, too.

    Args:
        data: transitions with continuous actions; the last batch of an epoch is a small one
            unless their number is a multiple of batch_size.
        batch_size: rows a member sees in one update.
        num_epochs: passes through the data.
        num_members: networks.
        num_layers: hidden layers.
        hidden_size: their width.
        activation: between the layers.
        learning_rate: of Adam.
    """
    try:
        from mbrl.models import GaussianMLP, ModelTrainer, OneDTransitionRewardModel
        from mbrl.util.common import get_basic_buffer_iterators
        from mbrl.util.replay_buffer import ReplayBuffer
    except ImportError:
        return None
    sizes = data.obs.shape[1], data.action.shape[1]
    buffer = ReplayBuffer(len(data), sizes[:1], sizes[1:])
    buffer.add_batch(
        data.obs, data.action, data.next_obs, data.reward, data.terminated, data.truncated
    )

    def train() -> object:
        network = GaussianMLP(
            in_size=sum(sizes),
            out_size=sizes[0] + 1,
            device="cpu",
            num_layers=num_layers,
            ensemble_size=num_members,
            hid_size=hidden_size,
            learn_logvar_bounds=True,
            activation_fn_cfg={"_target_": activation},
        )
        model = OneDTransitionRewardModel(network, target_is_delta=True, normalize=True)
        model.update_normalizer(buffer.get_all())
        batches, _ = get_basic_buffer_iterators(buffer, batch_size, 0, ensemble_size=num_members)
        trainer = ModelTrainer(model, optim_lr=learning_rate, weight_decay=0)
        return trainer.train(batches, num_epochs=num_epochs, evaluate=False, silent=True)

    return train


def matmul_peak(size: int = 512, repeats: int = 50) -> float:
    """Float32 GFLOP/s of one thread: the best of many products of square matrices."""
    a, b, out = torch.randn(3, size, size)
    seconds = _times({"": lambda: torch.mm(a, b, out=out)}, repeats)[""]
    return 2 * size**3 / min(seconds) / 1e9


def batched_matmul_peak(
    num_members: int = 5,
    rows: int = 2000,
    sizes: tuple[int, ...] = (5, 200, 200, 200, 8),
    repeats: int = 30,
) -> float:
    """Float32 GFLOP/s of the products alone of one call of an ensemble: the best of many.

    Args:
        num_members: networks.
        rows: inputs of each; 2,000 are 500 candidates of 20 particles over 5 members.
        sizes: numbers between the layers, from the inputs to the outputs (mean and variance).
        repeats: how many to take the best of.
    """
    layers = [
        (torch.randn(num_members, rows, m), torch.randn(num_members, m, n))
        for m, n in itertools.pairwise(sizes)
    ]
    outs = [torch.empty(num_members, rows, n) for n in sizes[1:]]

    def multiply() -> None:
        for (x, weight), out in zip(layers, outs, strict=True):
            torch.bmm(x, weight, out=out)

    num_flops = 2 * num_members * rows * sum(m * n for m, n in itertools.pairwise(sizes))
    return num_flops / min(_times({"": multiply}, repeats)[""]) / 1e9


def _times(runs: dict[str, Callable], repeats: int) -> dict[str, list[float]]:
    """Seconds of each of several callables, called in turn, after one call to warm up."""
    seconds = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            if repeat:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def main() -> None:
    print(f"one core of {machine()}, torch {torch.__version__}")
    torch.manual_seed(0)
    model, obs = StepNetwork(), torch.tensor([1.0, 0.0, 0.5])
    bounds = {"low": torch.tensor([-2.0]), "high": torch.tensor([2.0])}
    small = {
        "plain torch CEM": plain_torch_cem(model, obs, **bounds),
        "torchrl CEM": torchrl_cem(model, obs, **bounds),
        "pytorch-mppi": pytorch_mppi(model, obs, **bounds),
    }
    large = {"mbrl-lib CEM": mbrl_lib_cem()}
    for runs, repeats in ((small, 40), (large, 5)):
        runs = {name: run for name, run in runs.items() if run}
        for name, seconds in _times(runs, repeats).items():
            low, middle = 1e3 * min(seconds), 1e3 * statistics.median(seconds)
            print(f"{name:16} {middle:8.1f} ms (median of {repeats}; best {low:.1f})")
    print(f"matmul 512 x 512 x 512: {matmul_peak():.0f} GFLOP/s")
    print(f"products of 5 members of 3 x 200: {batched_matmul_peak():.0f} GFLOP/s")


if __name__ == "__main__":
    main()
