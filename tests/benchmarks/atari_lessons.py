"""Two ways in which dreams of Breakout go wrong, each beside its cure.

"long dream": an agent trains on in dreams, and every so many updates plays from the start, in the
game and in a dream, for at most 300 steps. The model has seen 2,000 random frames and stays as it
is ("frozen"), or learns from some of the agent's own frames every time ("refitted").

"rows by loss": a model that is told the *chosen* actions of a game whose actions stick. Its rows
are drawn by their loss ("by loss"), or as they came ("as they came"). On fresh random frames: how
probable the model says it is that an action sticks, and how often one does.
"""

import numpy as np
import torch
from _common import finish, parser, record, run_all
from atari import explorer, parts

from mbrl_helpers.agents import RandomAgent
from mbrl_helpers.data import ReplayBuffer
from mbrl_helpers.games.dqn import act_and_learn
from mbrl_helpers.games.dreams import ImaginedEnv
from mbrl_helpers.games.frames import FrameModel, frame_losses, make_games
from mbrl_helpers.interfaces import VectorStep
from mbrl_helpers.notebook import generator

NUM_BLOCKS, BLOCK_UPDATES, OWN_FRAMES, NUM_STEPS = 6, 500, 500, 300
STARTS = 9_100_000  # of the games that are only looked at
LONG, BY_LOSS = "long dream", "rows by loss"


def random_play(games, agent, num_frames: int, capacity: int) -> ReplayBuffer:
    """Frames of random play."""
    buffer = ReplayBuffer(capacity)
    at_random = RandomAgent(games.single_action_space, agent.generator)
    act_and_learn(at_random, games, buffer, num_frames)
    return buffer


def as_experience(first: np.ndarray) -> ReplayBuffer:
    """Observations [K, ...] as if each had been seen once, so that dreams can start from them."""
    buffer, none, no = ReplayBuffer(len(first)), np.zeros(1, int), np.zeros(1, bool)
    for obs in first[:, None]:
        buffer.add_step(VectorStep(obs, none, none, obs, no, no, none))
    return buffer


def mean_return(act, envs) -> float:
    """What each environment gives until its first end, at most so many steps."""
    obs, _ = envs.reset(seed=STARTS)
    total, alive = torch.zeros(envs.num_envs), torch.ones(envs.num_envs, dtype=torch.bool)
    for _ in range(NUM_STEPS):
        obs, reward, terminated, _, _ = envs.step(act(obs))
        total += alive * torch.as_tensor(reward)
        alive &= ~torch.as_tensor(terminated)
        if terminated.any():
            obs, _ = envs.reset(options={"reset_mask": terminated})
    return round(float(total.mean()), 2)


def long_dream(seed: int, variant: str) -> list[dict]:
    """Returns in dream and game, block after block."""
    games, agent, shape, num_actions = parts("Breakout", seed)
    model = FrameModel(shape, num_actions, agent.generator)
    buffer = random_play(games, agent, 2_000, 10_000)
    for _ in range(2):
        fitted = model.fit(buffer, 600)
    both = make_games("Breakout", 30, max_steps=NUM_STEPS + 1)
    starts = as_experience(both.reset(seed=STARTS)[0])
    dreamt, rows, player = ReplayBuffer(60_000 // 64, 64), [], explorer(games, agent)
    for block in range(NUM_BLOCKS):
        if variant == "refitted" and block:
            act_and_learn(player, games, buffer, OWN_FRAMES)
            fitted = model.fit(buffer, 600)
        dreams = ImaginedEnv(fitted, buffer, 64, agent.generator)
        act_and_learn(player, dreams, dreamt, BLOCK_UPDATES, learner=agent)
        from_start = ImaginedEnv(fitted, starts, 30, generator(seed), max_steps=10**9)
        rows.append({
            "experiment": LONG, "variant": variant, "seed": seed,
            "updates": (block + 1) * BLOCK_UPDATES, "dream": mean_return(agent.act, from_start),
            "game": mean_return(agent.act, both),
        })  # fmt: skip
    return rows


def by_loss(seed: int, variant: str) -> list[dict]:
    """How sticky the game is, and how sticky the model thinks it is."""
    games, agent, shape, num_actions = parts("Breakout", seed)
    seen, fresh = (random_play(games, agent, 2_000, 2_000).batch() for _ in range(2))
    model = FrameModel(shape, num_actions, agent.generator)
    model.optimizer.param_groups[0]["lr"] = 5e-3
    weight = torch.ones(len(seen))
    for update in range(1_500):
        if variant == "by loss" and update % 50 == 0:
            with torch.no_grad():
                weight = frame_losses(model.network, seen)[0]
        draws = torch.multinomial(weight, 32, True, generator=agent.generator)
        model.optimizer.zero_grad()
        losses = frame_losses(model.network, seen[draws])
        losses.sum(0).mean().backward()
        model.optimizer.step()
    last = fresh.action.roll(1)
    paddle = [o[:, -1, 0, -1].float().argmax(1) for o in (fresh.obs, fresh.next_obs)]
    move = torch.tensor([0, -1, 1])  # stay, left, right
    wanted, stuck = ((paddle[0] + move[a]).clamp(0, 9) for a in (fresh.action, last))
    # Where the frames tell: the two differ, no end between them, and the last action was executed.
    before = fresh.obs[:, 0, 0, -1].float().argmax(1)
    tells = (wanted != stuck) & (paddle[0] - before == move[last])
    with torch.no_grad():
        said = model.network(fresh.obs, fresh.action).frame[:, 0].flatten(1).sigmoid()
    probability = said.gather(1, 90 + stuck[:, None])[:, 0]  # the paddle is in the last row
    row = {"experiment": BY_LOSS, "variant": variant, "seed": seed, "updates": 1_500,
           "dream": round(float(probability[tells].mean()), 4),
           "game": round(float((paddle[1] == stuck)[tells].float().mean()), 4)}  # fmt: skip
    print(row, flush=True)
    return [row]


LESSONS = {"as they came": by_loss, "by loss": by_loss, "frozen": long_dream,
           "refitted": long_dream}  # fmt: skip


def run(seed: int, variant: str) -> list[dict]:
    """One variant of one lesson."""
    return LESSONS[variant](seed, variant)


def main() -> None:
    options = parser(__doc__, range(3)).parse_args()
    rows = run_all(run, options, {"variant": list(LESSONS)})
    for row in rows:
        print(row)
    if options.record:
        record("atari_lessons", rows)
    last = NUM_BLOCKS * BLOCK_UPDATES
    finish("atari_lessons", seeds=options.seeds, **{
        f"{variant}_{world}".replace(" ", "_"): [r[world] for r in rows if r["variant"] == variant
                                                 and r["updates"] in (last, 1_500)]
        for variant in LESSONS for world in ("dream", "game")
    })  # fmt: skip


if __name__ == "__main__":
    main()
