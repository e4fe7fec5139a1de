"""Planners: milliseconds beside other people's, and Pendulum-v1 with true and learned dynamics.

All ratios are of medians of decisions made in turn, on the same work with the same random network.
With `--peers` the libraries must be importable (see _peers.py); without, their ratios are null.
A floor is the ratio that the network's own work, with nothing around it, would have. Regret is the
best return there is from the same start (see pendulum_optimum.py), less ours.
"""

import itertools
import statistics
import time

import numpy as np
import torch
from _common import finish, parser, recorded, run_all
from _peers import (
    StepNetwork,
    _times,
    batched_matmul_peak,
    matmul_peak,
    mbrl_lib_cem,
    plain_torch_cem,
    pytorch_mppi,
    torchrl_cem,
)
from gymnasium.spaces import Box

from mbrl_helpers import (
    CEM,
    ICEM,
    MPPI,
    CEMConfig,
    DynamicsConfig,
    EnsembleModel,
    ICEMConfig,
    MPCAgent,
    MPPIConfig,
    RandomAgent,
    ReplayBuffer,
    Step,
    closed_loop,
    evaluate,
    get_task,
    rollout_returns,
)

TASK = get_task("Pendulum-v1")
NUM_STARTS = 20  # reset(seed=9000 + i): used for nothing else
BEST = np.array([float(row["best_return"]) for row in recorded("pendulum_optimum")[1]])
LOW, HIGH = torch.tensor([-2.0]), torch.tensor([2.0])
OBS = torch.tensor([1.0, 0.0, 0.5])
# Chosen on other starts, 5000 and on.
CHEAP = ICEMConfig(horizon=25, population_size=44, num_elites=8)
LEARNED = DynamicsConfig(patience=8)
WORK = {"horizon": 15, "population_size": 500}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


class Bare:
    """The peers' network behind the course's interface."""

    num_members = 1

    def __init__(self, network):
        self.network = network

    def step(self, obs, action):
        next_obs, reward = self.network(obs, action)
        return Step(next_obs, reward, torch.zeros_like(reward))


class Gaussian:
    """An ensemble like that of mbrl-lib's PETS notebook: 3 x 200, LeakyReLU, mean and variance.

    Reward and end are those of its CartPole; of 4 numbers and 1 action it predicts the change.
    """

    num_members = 5

    def __init__(self, sizes=(5, 200, 200, 200, 8)):
        rng = seeded(0)
        self.layers = []
        for m, n in itertools.pairwise(sizes):
            weight = torch.randn(self.num_members, m, n, generator=rng) * m**-0.5
            if n < m:
                weight = weight.mT.contiguous().mT  # by columns, as EnsembleNetwork does
            self.layers.append((weight, torch.zeros(self.num_members, 1, n)))
        self.mean, self.std = torch.zeros(5), torch.ones(5)
        self.rng = rng

    def step(self, obs, action):
        x = (torch.cat([obs, action], -1) - self.mean) / self.std
        for weight, bias in self.layers[:-1]:
            x = torch.nn.functional.leaky_relu_(torch.baddbmm(bias, x, weight))
        weight, bias = self.layers[-1]
        mean, log_var = torch.baddbmm(bias, x, weight).chunk(2, dim=-1)
        log_var = 0.5 - torch.nn.functional.softplus(0.5 - log_var)
        log_var = -10 + torch.nn.functional.softplus(log_var + 10)
        noise = torch.randn(mean.shape, generator=self.rng)
        next_obs = obs + mean + (0.5 * log_var).exp() * noise
        ended = (next_obs[..., 0].abs() > 2.4) | (next_obs[..., 2].abs() > 0.2095)
        return Step(next_obs, torch.ones(obs.shape[:-1]), ended.float())


def decision(planner, score):
    """Make one decision, as in the middle of an episode."""
    state = planner.start(1)

    @torch.inference_mode()
    def decide():
        nonlocal state
        plan, state = planner.plan(score, state)
        return plan.actions[:, 0]

    return decide


def ours(planner_class, config):
    """Our planner on the peers' network."""
    model, planner = Bare(StepNetwork()), planner_class(Box(-2, 2, (1,)), seeded(0), config)
    return decision(planner, lambda actions: rollout_returns(model, OBS[None], actions))


def ours_like_mbrl_lib(particles_per_member=4):
    """Our CEM with the work of mbrl-lib's: 20 particles, each staying with one of 5 members."""
    model, space = Gaussian(), Box(-1, 1, (1,))
    config = CEMConfig(**WORK, num_iterations=5, num_elites=50)
    obs = torch.tensor([[0.01, 0.02, 0.03, -0.02]])

    def score(actions):
        # [B, N, ...] -> [B, N * 4, ...]: the same plan, with a chance of its own each
        many = actions.repeat_interleave(particles_per_member, dim=1)
        return rollout_returns(model, obs, many).view(*actions.shape[:2], -1).mean(-1)

    return decision(CEM(space, seeded(0), config), score)


def network_alone(network, num_calls):
    """The predictions of one decision and nothing else: no sampling, no sums, no copies."""
    obs, action = OBS.expand(WORK["population_size"], -1), torch.zeros(WORK["population_size"], 1)

    @torch.inference_mode()
    def run():
        for _ in range(num_calls // WORK["population_size"]):
            network(obs, action)

    return run


def medians(runs, repeats):
    """Median milliseconds of each callable, in turn; None for what can't be run."""
    able = {name: run for name, run in runs.items() if run}
    times = {name: 1e3 * statistics.median(t) for name, t in _times(able, repeats).items()}
    for name, value in times.items():
        print(f"  {name:24} {value:9.2f} ms", flush=True)
    return {name: times.get(name) for name in runs}


def ratio(times, name, peer):
    """Ours over theirs, or None."""
    return times[peer] and round(times[name] / times[peer], 3)


def compare(with_peers):
    """Ratios, and the share of the machine's peak that the large ensemble reaches."""
    network, bounds = StepNetwork(), {"low": LOW, "high": HIGH}
    cem = ours(CEM, CEMConfig(**WORK, num_iterations=5, num_elites=50))
    small = medians({
        "CEM": cem,
        "plain torch CEM": plain_torch_cem(network, OBS, **bounds),
        "torchrl CEM": torchrl_cem(network, OBS, **bounds) if with_peers else None,
        "network alone, CEM": network_alone(network, 37_500),
        "network alone, MPPI": network_alone(network, 7_500),
        "MPPI": ours(MPPI, MPPIConfig(**WORK)),
        "pytorch-mppi": pytorch_mppi(network, OBS, **bounds) if with_peers else None,
    }, repeats=60)  # fmt: skip
    large = medians(
        {"CEM, 750,000 calls": ours_like_mbrl_lib(),
         "mbrl-lib CEM": mbrl_lib_cem() if with_peers else None}, repeats=7)  # fmt: skip
    gflop = 2 * 750_000 * (5 * 200 + 2 * 200 * 200 + 200 * 8) / 1e9
    reached, peak = gflop / (large["CEM, 750,000 calls"] / 1e3), matmul_peak()
    products = batched_matmul_peak()
    print(f"  {reached:.0f} of {peak:.0f} GFLOP/s; products of these shapes alone: {products:.0f}")
    large["products alone"] = 1e3 * gflop / products
    pairs = {
        "torch_cem": (small, "CEM", "plain torch CEM", "network alone, CEM"),
        "torchrl": (small, "CEM", "torchrl CEM", "network alone, CEM"),
        "pytorch_mppi": (small, "MPPI", "pytorch-mppi", "network alone, MPPI"),
        "mbrl_lib": (large, "CEM, 750,000 calls", "mbrl-lib CEM", "products alone"),
    }
    return {
        **{f"ratio_{k}": ratio(times, mine, peer) for k, (times, mine, peer, _) in pairs.items()},
        **{f"floor_{k}": ratio(times, floor, peer) for k, (times, _, peer, floor) in pairs.items()},
        "peak_share": round(reached / peak, 3),
    }


def returns_of(model, config, seed):
    """Returns from the fixed starts, and median milliseconds of a decision in one environment."""
    agent = MPCAgent(TASK, model, ICEM(TASK.action_space, seeded(seed), config))
    returns = evaluate(TASK, agent, num_episodes=NUM_STARTS)
    agent.reset()
    obs, seconds = np.array([[-1.0, 0.0, 0.0]], np.float32), []
    for _ in range(100):
        begin = time.perf_counter()
        agent.act(obs)
        seconds.append(time.perf_counter() - begin)
    return returns, 1e3 * statistics.median(seconds)


def model_calls(config):
    """Model calls of a decision: candidates of all iterations, kept ones included, times steps."""
    planner = ICEM(TASK.action_space, seeded(0), config)
    state = planner.start(1)
    for _ in range(2):  # from the second decision on there are kept elites at once
        plan, state = planner.plan(lambda a: -a.square().sum((-2, -1)), state, trace=True)
    return sum(step.actions.shape[1] for step in plan.trace) * config.horizon


def experience(seed):
    """2,000 transitions: three random episodes, and seven of the closed loop that follows them."""
    buffer, space = ReplayBuffer(), TASK.action_space
    rng, planner = seeded(seed), ICEM(space, seeded(seed), CHEAP)
    model, beginner = EnsembleModel(TASK, rng, LEARNED), RandomAgent(space, rng)

    def learn(data):
        return MPCAgent(TASK, model.fit(data), planner)

    start = 3_000_000 + 1000 * seed
    for _ in closed_loop(TASK, beginner, learn, buffer, num_episodes=10, seed=start):
        pass
    return buffer.all()


def run(seed):
    """Regret and milliseconds with true dynamics, and with learned ones."""
    returns, milliseconds = returns_of(TASK.true_dynamics, CHEAP, seed)
    data = experience(seed)
    model = EnsembleModel(TASK, seeded(seed), LEARNED).fit(data)
    with_model, model_ms = returns_of(model, CHEAP, seed)
    return {
        "true_regret": round(float((BEST - returns).mean()), 2), "true_ms": round(milliseconds, 2),
        "learned_regret": round(float((BEST - with_model).mean()), 2),
        "learned_ms": round(model_ms, 2), "transitions": len(data),
    }  # fmt: skip


def main() -> None:
    arguments = parser(__doc__, range(5), jobs=1)
    arguments.add_argument("--peers", action="store_true", help="beside the peers, if installed")
    options = arguments.parse_args()
    ratios = compare(options.peers)
    done = run_all(run, options)
    for one in done:
        print(
            "seed {seed}: regret {true_regret} with true dynamics ({true_ms} ms), {learned_regret} "
            "with learned ({transitions} transitions, {learned_ms} ms)".format(**one)
        )
    finish("planners", seeds=options.seeds, **ratios, pendulum_true_calls=model_calls(CHEAP), **{
        f"pendulum_{name}": [one[name] for one in done]
        for name in ("true_ms", "true_regret", "learned_regret", "learned_ms")
    })  # fmt: skip


if __name__ == "__main__":
    main()
