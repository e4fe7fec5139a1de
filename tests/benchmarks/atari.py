"""MinAtar's games, played after learning in dreams of 10,000 real frames.

Each seed of a game runs in a process of its own; its seconds are of the processor, from the first
real frame to the end of learning, evaluation excluded. Every agent is evaluated on the same thirty
starts; `ms` is what a decision in one of these games costs it, all thirty decided together. Beside
the agent of the dreams: the same agent, looking ahead in its model while it plays; acting at
random; DQN that learns from the game itself, from as many real frames, or from more; the very loop
of the dreams, last phase included, whose agent makes as many updates with real steps in place of
dreamt ones ("real replay"), or four times as many ("real replay x 4"); and, in
Breakout, searching the models of the first seeds without a learned value: these learn nothing, and
their seconds are those of deciding in all thirty games. Freeway has clocks that two frames do not
show, a reward that chance does not find, and long dreams of it deceive: its agents see six frames,
and dream with curiosity, for ten steps in more (and cheaper) rounds; its variants add these one by
one. In the JSON line `breakout_return` and the like are those of the agent that looks ahead,
`breakout_network_return` those of its network alone.
"""

import copy
import sys
import time
from typing import NamedTuple

import torch
from _common import finish, parser, record, recorded, run_all

from mbrl_helpers.agents import RandomAgent
from mbrl_helpers.data import ReplayBuffer
from mbrl_helpers.games.dqn import (
    DQN,
    DQNConfig,
    EpsilonGreedy,
    PlaneQNetwork,
    act_and_learn,
    play,
)
from mbrl_helpers.games.dreams import DreamConfig, learn_in_dreams
from mbrl_helpers.games.frames import FittedFrames, FrameModel, LookAhead, make_games
from mbrl_helpers.notebook import generator

NUM_EPISODES, EVALUATION = 30, 9_000_000  # fixed starts, used for nothing else
FIELDS = ("game", "agent", "seed", "frames", "mean_return", "min_return", "max_return", "episodes",
          "ms", "seconds")  # fmt: skip
SEARCHED = "Breakout", (0, 1, 2)  # game and seeds
NAMES = {"breakout": "Breakout", "space_invaders": "SpaceInvaders", "freeway": "Freeway"}
LOOK, DREAM, RANDOM, DQN_SAME = "dream and look ahead", "dream", "random", "DQN"
REPLAY = {1: "real replay", 4: "real replay x 4"}  # by updates, over those of the dreams
SEARCH, SHOOT = "search, 5 ahead", "random shooting, 16 ahead"


class Setting(NamedTuple):
    """What a game is played with; None is the default."""

    game: str
    num_frames: int = 2  # of an observation
    dreams: DreamConfig | None = None
    agent: DQNConfig | None = None


CURIOUS = DreamConfig(curiosity=0.03)
SHORT = DreamConfig(
    num_rounds=16, num_round_frames=500, num_model_updates=300, num_dream_updates=500,
    num_last_updates=500, dream_steps=10, curiosity=0.03,
)  # fmt: skip
HALF = DQNConfig(batch_size=128)
SETTINGS = {
    "Breakout": Setting("Breakout"),
    "SpaceInvaders": Setting("SpaceInvaders"),
    "Freeway": Setting("Freeway", 6, SHORT, HALF),
    "FreewayPlain": Setting("Freeway"),
    "FreewaySixFrames": Setting("Freeway", 6),
    "FreewayCurious": Setting("Freeway", 6, CURIOUS),
}


def make(game: str, num_envs: int):
    """Games, of which an observation shows as many frames as set above."""
    setting = SETTINGS[game]
    return make_games(setting.game, num_envs, num_frames=setting.num_frames)


def evaluated(game: str, agent) -> dict:
    """Returns of the thirty episodes, and what a decision costs."""
    envs, times = make(game, NUM_EPISODES), []

    def timed(obs):
        begin = time.process_time()
        action = agent.act(obs)
        times.append(time.process_time() - begin)
        return action

    returns = play(timed, envs, seed=EVALUATION)
    envs.close()
    return {"mean_return": round(float(returns.mean()), 2), "min_return": float(returns.min()),
            "max_return": float(returns.max()), "episodes": NUM_EPISODES,
            "ms": round(1e3 * sum(times) / len(times) / NUM_EPISODES, 3)}  # fmt: skip


def parts(game: str, seed: int, num_envs: int = 1, config: DQNConfig | None = None):
    """Games and an agent."""
    rng, games = generator(seed), make(game, num_envs)
    games.reset(seed=1_000_000 + 1000 * seed)
    shape, num_actions = games.single_observation_space.shape, int(games.single_action_space.n)
    agent = DQN(PlaneQNetwork(shape, num_actions, rng), rng, config)
    return games, agent, shape, num_actions


def explorer(games, agent: DQN) -> EpsilonGreedy:
    """The agent as it acts while it learns."""
    space, epsilon = games.single_action_space, agent.config.epsilon
    return EpsilonGreedy(agent, space, agent.generator, epsilon=epsilon)


def dreams(game: str, seed: int) -> list[dict]:
    """Our agent after each round; in the end looking ahead, too."""
    setting = SETTINGS[game]
    games, agent, shape, num_actions = parts(game, seed, config=setting.agent)
    model = FrameModel(shape, num_actions, agent.generator)
    buffer, rows, evaluating, begin = ReplayBuffer(10_000), [], 0.0, time.process_time()

    def add(name, frames, who):
        nonlocal evaluating
        now = time.process_time()
        row = {"game": game, "agent": name, "seed": seed, "frames": frames}
        rows.append(row | evaluated(game, who) | {"seconds": round(now - begin - evaluating, 1)})
        evaluating += time.process_time() - now
        print(rows[-1], file=sys.stderr, flush=True)

    add(RANDOM, 0, RandomAgent(games.single_action_space, generator(seed)))
    for done in learn_in_dreams(games, model, agent, buffer, setting.dreams):
        add(DREAM, done.num_frames, agent)
    add(LOOK, done.num_frames, LookAhead(done.model, agent))
    wanted = game == SEARCHED[0] and seed in SEARCHED[1]
    return rows + (searches(game, seed, done.model, agent) if wanted else [])


def replayed(game: str, seed: int, factor: int) -> list[dict]:
    """The rounds of `dreams`; each of their updates is made with real steps, `factor` times."""
    games, agent, *_ = parts(game, seed)
    config, rows, seconds = DreamConfig(), [], 0.0
    buffer = ReplayBuffer(10_000)
    player = RandomAgent(games.single_action_space, agent.generator)
    for index in range(config.num_rounds + 1):
        begin = time.process_time()
        act_and_learn(player, games, buffer,
                      config.num_round_frames if index else config.num_random_frames)  # fmt: skip
        player = explorer(games, agent)
        for _ in range(factor * config.num_dream_updates):
            agent.learn(buffer)
        if index == config.num_rounds:
            num = factor * config.num_last_updates
            for number in range(num):
                agent.learn(buffer, 1 - (1 - config.final_rate) * number / num)
        seconds += time.process_time() - begin
        row = {"game": game, "agent": REPLAY[factor], "seed": seed, "frames": buffer.num_added}
        rows.append(row | evaluated(game, agent) | {"seconds": round(seconds, 1)})
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


class Shooting:
    """Tries random sequences of a few held actions in the model; no value beyond the last step."""

    num_sequences, horizon, hold = 64, 16, 0.8

    def __init__(self, model: FittedFrames, agent: DQN) -> None:
        self.model, self.agent = model, agent

    def sequences(self, num_games: int) -> torch.Tensor:
        """Draw [games * N, horizon] actions; each is held on with some probability."""
        rng, shape = self.agent.generator, (num_games * self.num_sequences, self.horizon)
        actions = torch.randint(self.model.num_actions, shape, generator=rng)
        held = torch.rand(shape, generator=rng) < self.hold
        for t in range(1, self.horizon):
            actions[:, t] = torch.where(held[:, t], actions[:, t - 1], actions[:, t])
        return actions

    def act(self, obs):
        """Take the first action [B] of the sequence with the highest discounted reward."""
        dream = torch.as_tensor(obs).repeat_interleave(self.num_sequences, 0)
        actions = self.sequences(len(obs))
        total, factor = torch.zeros(len(dream)), torch.ones(len(dream))
        for action in actions.T:
            dream, reward, terminated = self.model.step(dream, action)
            total += factor * reward
            factor *= self.agent.config.discount * ~terminated
        total += factor  # of two with the same rewards, the one that lives on
        best = total.view(len(obs), -1).argmax(1)
        return actions[:, 0].view(len(obs), -1).gather(1, best[:, None])[:, 0].numpy()


def searches(game: str, seed: int, model: FittedFrames, agent: DQN) -> list[dict]:
    """The model searched without a learned value: dreaming nothing, deciding for long."""
    rows, blank = [], copy.deepcopy(agent)
    for parameter in blank.target.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.ones_(blank.target.value.bias)  # it only knows that to be alive is good
    for name, thinker in ((SEARCH, LookAhead(model, blank, depth=5)),
                          (SHOOT, Shooting(model, agent))):  # fmt: skip
        begin = time.process_time()
        row = {"game": game, "agent": name, "seed": seed, "frames": 10_000}
        row |= evaluated(game, thinker)
        rows.append(row | {"seconds": round(time.process_time() - begin, 1)})
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def dqn(game: str, seed: int, frames: int = 10_000) -> list[dict]:
    """DQN in the game itself: an update for each frame, of more frames for each 4, or each 16."""
    num_envs = 1 if frames <= 10_000 else 4 if frames <= 100_000 else 16
    games, agent, *_ = parts(game, seed, num_envs)
    begin = time.process_time()
    buffer = ReplayBuffer(min(frames, 60_000) // num_envs, num_envs)
    act_and_learn(explorer(games, agent), games, buffer, frames // num_envs, learner=agent,
                  final_rate=0.05)  # fmt: skip
    seconds = round(time.process_time() - begin, 1)
    row = {"game": game, "agent": DQN_SAME, "seed": seed, "frames": frames}
    return [row | evaluated(game, agent) | {"seconds": seconds}]


def merged(rows: list[dict], old: list[dict]) -> list[dict]:
    """Old rows but for those that were measured again, and the new ones, sorted."""
    new = {(r["game"], r["agent"], str(r["seed"]), str(r["frames"])) for r in rows}
    kept = [r for r in old if (r["game"], r["agent"], r["seed"], r["frames"]) not in new]
    order = ("game", "agent", "frames", "seed")
    return sorted(kept + rows, key=lambda r: [int(r[k]) if str(r[k]).isdigit() else r[k]
                                              for k in order])  # fmt: skip


def last_means(rows: list[dict], game: str, agent: str, frames: int = 10_000) -> list[float]:
    """Mean return of each seed."""
    return [r["mean_return"] for r in rows
            if (r["game"], r["agent"], int(r["frames"])) == (game, agent, frames)]  # fmt: skip


def run(seed: int, game: str, agent: str, amount: int) -> dict:
    """Play one agent; `amount`: frames of DQN, or times as many updates as dreams have."""
    if agent == DREAM:
        return {"rows": dreams(game, seed)}
    return {"rows": (dqn if agent == DQN_SAME else replayed)(game, seed, amount)}


def main() -> None:
    arguments = parser(__doc__, range(5))
    arguments.add_argument(
        "--games", nargs="+", default=list(NAMES.values()), choices=list(SETTINGS)
    )
    arguments.add_argument(
        "--dqn", nargs="*", type=int, default=[10_000], help="frames of DQN; none given: no DQN"
    )
    arguments.add_argument(
        "--replay", nargs="*", type=int, default=[], choices=list(REPLAY),
        help="times as many updates with real steps as the dreams have",
    )  # fmt: skip
    arguments.add_argument("--only-dqn", action="store_true", help="leave the dreams out")
    options = arguments.parse_args()
    agents = [] if options.only_dqn else [(DREAM, 0)]
    agents += [(DQN_SAME, n) for n in options.dqn] + [(REPLAY[1], k) for k in options.replay]
    settings = [{"game": game, "agent": agent, "amount": amount}
                for game in options.games for agent, amount in agents]  # fmt: skip
    done = run_all(run, options, settings, fresh=True)
    rows = [row for one in done for row in one["rows"]]
    if options.record:
        header, old = recorded("atari")
        record("atari", merged(rows, old), earlier=header)
    for row in rows:
        print("  ".join(f"{row[name]!s:>20}" for name in FIELDS))
    seconds = [r["seconds"] for r in rows if (r["agent"], r["frames"]) == (DREAM, 10_000)]
    finish(
        "atari", seeds=options.seeds,
        **{f"{name}_return": last_means(rows, game, LOOK) for name, game in NAMES.items()},
        **{f"{name}_network_return": last_means(rows, game, DREAM) for name, game in NAMES.items()},
        dqn_same_frames_return=last_means(rows, "Breakout", DQN_SAME),
        seconds=seconds,
    )  # fmt: skip


if __name__ == "__main__":
    main()
