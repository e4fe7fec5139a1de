"""Pendulum-v1 without its velocity, model-free: SAC on stacked looks, and a recurrent PPO.

The worlds, the ten starts and the regret are those of hidden_state.py. `SAC today` (see
model_free.py) is given the last looks and actions, as many as the stack there: two where all looks
are seen, six where half of them are blank. `RecurrentPPO` is given the look alone, and has an LSTM
to remember by; its settings are rl-baselines3-zoo's of PPO for Pendulum, but for larger batches and
no state-dependent noise. Evaluated after every 200th step (SAC) or every 20,000th (PPO), and never
stopped for its result. Seconds are of the processor, evaluation excluded.

It needs sbx-rl and sb3-contrib (see _peers.py).
"""

import importlib.util
import itertools
import time
from operator import itemgetter

import gymnasium as gym
import numpy as np
from _common import finish, parser, record, recorded, run_all
from hidden_state import BEST, LOOKS, WORLDS, steps_to
from model_free import RUNS, Greedy, make_model

from mbrl_helpers.hidden.glimpses import pendulum_glimpses
from mbrl_helpers.interaction import collect_episodes
from mbrl_helpers.memory import RememberSteps

NAME = "hidden_model_free"
SAC, PPO = "SAC today, stacked looks", "RecurrentPPO"
PLAYED = {"num_episodes": 10, "seed": 9000}
SETTINGS = {
    SAC: RUNS["Pendulum-v1", "SAC today"] | {"n_timesteps": 2_000},
    PPO: RUNS["Pendulum-v1", "PPO"] | {"n_timesteps": 100_000, "library": "sb3_contrib",
                                       "use_sde": False, "sde_sample_freq": -1,
                                       "batch_size": 1024, "policy": "MlpLstmPolicy"},
}  # fmt: skip
EVERY = {SAC: 200, PPO: 20_000}
RUNS_HERE = [{"world": world, "method": method} for method in SETTINGS for world in WORLDS
             if world != "noisy"]  # fmt: skip


class Remembering(Greedy):
    """A recurrent policy, as an agent of the course."""

    state, ended = None, None

    def act(self, obs: np.ndarray) -> np.ndarray:
        begins = np.ones(len(obs), bool) if self.state is None else np.zeros(len(obs), bool)
        action, self.state = self.model.predict(
            obs, state=self.state, episode_start=begins, deterministic=True
        )
        return action

    def reset(self, ended: np.ndarray | None = None) -> None:
        """All episodes end together here."""
        self.state = None


def env_of(world: str, method: str) -> str:
    """Gymnasium's name of what a method sees of a world."""
    task = pendulum_glimpses(**WORLDS[world])
    if method == PPO:
        return task.env_id
    num_steps = (2 if world == "hidden" else LOOKS) - 1
    env_id = f"Stacked{num_steps}/{task.env_id.rpartition('/')[2]}"
    if env_id not in gym.registry:
        gym.register(env_id, lambda **more: RememberSteps(gym.make(task.env_id, **more), num_steps))
    return env_id


def run(seed: int, world: str, method: str) -> list[dict]:
    """Train once, and return a row for each evaluation."""
    from stable_baselines3.common.callbacks import BaseCallback

    env_id, settings, rows = env_of(world, method), dict(SETTINGS[method]), []

    class Evaluate(BaseCallback):
        spent, due = 0.0, EVERY[method]

        def _on_step(self) -> bool:
            if self.num_timesteps >= self.due:
                self.due += EVERY[method]
                begin = time.process_time()
                agent = (Remembering if method == PPO else Greedy)(self.model)
                returns = collect_episodes(env_id, agent, **PLAYED).returns()
                rows.append({
                    "seed": seed, "world": world, "method": method, "steps": self.num_timesteps,
                    "seconds": round(begin - started - self.spent, 1),
                    "regret": round(float((BEST - returns).mean()), 2),
                })  # fmt: skip
                self.spent += time.process_time() - begin
            return True

    num_steps, started = settings.pop("n_timesteps"), time.process_time()
    make_model(env_id, method, seed, settings).learn(num_steps, callback=Evaluate())
    return rows


def main() -> None:
    arguments = parser(__doc__, range(5))
    arguments.add_argument("--methods", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    arguments.add_argument("--worlds", nargs="+", choices=("hidden", "blanked"),
                           default=["hidden", "blanked"])  # fmt: skip
    options = arguments.parse_args()
    if not all(map(importlib.util.find_spec, ("sb3_contrib", "sbx"))):
        print("nothing was run: sb3-contrib or sbx-rl is not installed (see _peers.py)")
        return finish(NAME)
    chosen = [one for one in RUNS_HERE
              if one["method"] in options.methods and one["world"] in options.worlds]  # fmt: skip
    rows = run_all(run, options, chosen, fresh=True)
    if options.record:
        header, old = recorded(NAME)
        new = {(row["world"], row["method"], row["seed"]) for row in rows}
        kept = [r for r in old if (r["world"], r["method"], int(r["seed"])) not in new]
        record(NAME, kept + rows, earlier=header if kept else [])
    results = {}
    for (world, method, _), group in itertools.groupby(rows, itemgetter("world", "method", "seed")):
        of_run = list(group)
        results.setdefault(f"{world}: {method}", []).append(steps_to(of_run))
        track = " ".join(f"{r['steps']}:{r['regret']:.0f}" for r in of_run)
        print(f"{world:8} {method:24} {of_run[0]['seed']}  {track}")
    finish(NAME, seeds=options.seeds, steps_to_regret_60=results)


if __name__ == "__main__":
    main()
