"""Pendulum-v1 without its velocity: a recurrent state-space model, and with --controls its rivals.

Every method plays two random episodes, learns, and plans from what it believes, by one and the
same planner; regret is against the best returns there are from the ten fixed starts for who sees
everything (see pendulum_optimum.py). Seconds are of the processor, evaluation excluded.

Worlds: `hidden`, the velocity is never seen; `blanked`, and half of the looks are blank, too;
`noisy`, and the rest have noise of 0.1, too; `pixels`, pictures of 16 x 16 in place of the angle,
none of them blank. With the true dynamics (`ceiling`) the planner is given the state, as it is; as
`particle filter` it is given what the others see. An `actor and critic` learn in imagination, in
the planner's place.
"""

import itertools
import time
from operator import itemgetter

import numpy as np
import torch
from _common import finish, parser, record, recorded, run_all
from hidden_rivals import CodeStack, LearnedLatent, ParticleAgent, StackModel

from mbrl_helpers import (
    ICEM,
    ICEMConfig,
    MPCAgent,
    RandomAgent,
    ReplayBuffer,
    Task,
    closed_loop,
    collect_episodes,
    evaluate,
    get_task,
)
from mbrl_helpers.hidden.actor import ActorCritic
from mbrl_helpers.hidden.agent import BeliefActor, BeliefAgent
from mbrl_helpers.hidden.glimpses import pendulum_glimpses
from mbrl_helpers.hidden.model import RecurrentConfig, RecurrentModel
from mbrl_helpers.hidden.pictures import CodeConfig, PictureModel, pendulum_pictures
from mbrl_helpers.notebook import generator, read_recorded

BEST = np.array([row["best_return"] for row in read_recorded("pendulum_optimum")])[:10]
WORLDS = {"hidden": {}, "blanked": {"blank": 0.5}, "noisy": {"blank": 0.5, "noise": 0.1}}
LOOKS = 6  # of the stack where half are blank: of 4, 6 and 10 the best on another seed
PLANNER = ICEMConfig(horizon=20, population_size=44, num_elites=8)
REGRET = 60.0
EARLY, LATE, FEW, PIXELS = (400, 600, 2000), (800, 2000), (800,), (800, 1400, 2000)
# The parts that the controls take away, one by one.
PARTS = {
    "drawn latent": {"stochastic": True},
    "no overshooting": {"overshooting": 0.0},
    "no KL": {"kl_weight": 0.0},
}
# Seeing changes from fit to fit, and so does what is believed: more updates (chosen on seeds 100
# to 102 between 100 and 200).
PICTURES = RecurrentConfig(num_more_updates=200)
CODES = {
    "no circle": CodeConfig(circle=False),
    "linear code": CodeConfig(network=False),
    "linear code, no circle": CodeConfig(network=False, circle=False),
}
RUNS = [
    {"world": "hidden", "method": "ours", "evaluations": EARLY},
    {"world": "hidden", "method": "stack", "evaluations": EARLY},
    {"world": "blanked", "method": "ours", "evaluations": LATE},
    {"world": "hidden", "method": "ceiling", "evaluations": (0,)},
    {"world": "pixels", "method": "ours", "evaluations": PIXELS},
    {"world": "hidden", "method": "actor and critic", "evaluations": PIXELS},
]
CONTROLS = [
    {"world": "blanked", "method": "stack", "evaluations": LATE},
    {"world": "noisy", "method": "ours", "evaluations": FEW},
    {"world": "noisy", "method": "drawn latent", "evaluations": FEW},
    {"world": "blanked", "method": "no angles", "evaluations": FEW},
    {"world": "blanked", "method": "learned latent", "evaluations": FEW},
    {"world": "noisy", "method": "no overshooting", "evaluations": FEW},
    {"world": "noisy", "method": "no KL", "evaluations": FEW},
    {"world": "pixels", "method": "stack", "evaluations": PIXELS},
    {"world": "pixels", "method": "no circle", "evaluations": PIXELS},
    {"world": "pixels", "method": "linear code", "evaluations": PIXELS},
    {"world": "pixels", "method": "linear code, no circle", "evaluations": PIXELS},
    {"world": "blanked", "method": "actor and critic", "evaluations": LATE},
    {"world": "blanked", "method": "particle filter", "evaluations": (0,)},
    {"world": "noisy", "method": "particle filter", "evaluations": (0,)},
]


def title(one: dict) -> str:
    """How the command line speaks of a world and a method."""
    return f"{one['world']}: {one['method']}"


def model_of(method: str, world: str, task: Task, rng: torch.Generator):
    """What a method learns."""
    if world == "pixels":
        model = PictureModel(task, rng, PICTURES, CODES.get(method))
        if method == "stack":
            model.recurrent = CodeStack(model.recurrent.task, rng)
        return model
    if method == "stack":
        return StackModel(task, rng, num_looks=2 if world == "hidden" else LOOKS)
    if method == "learned latent":
        return LearnedLatent(task, rng)
    if method == "no angles":
        task = Task(env_id=task.env_id, obs_names=task.obs_names)
    return RecurrentModel(task, rng, RecurrentConfig(seen=2, **PARTS.get(method, {})))


def run(seed: int, world: str, method: str, evaluations: tuple[int, ...]) -> list[dict]:
    """A row for each evaluation."""
    rng = generator(seed)
    task = pendulum_pictures() if world == "pixels" else pendulum_glimpses(**WORLDS[world])
    planner = ICEM(task.action_space, rng, PLANNER)
    key = {"seed": seed, "world": world, "method": method}
    if method in ("ceiling", "particle filter"):
        regret = round(float((BEST - knowing(method, world, planner)).mean()), 2)
        return [key | {"steps": 0, "seconds": 0, "regret": regret, "ahead10": "", "ahead30": ""}]
    model = model_of(method, world, task, rng)
    learner = ActorCritic(model, rng) if method == "actor and critic" else None

    def player(std=0.0):
        return BeliefActor(learner, std=std) if learner else BeliefAgent(model, planner, std=std)

    def learn(experience):
        model.fit(experience)
        if learner:
            learner.improve(experience)
        return player(std=0.3)

    begin, evaluating, rows = time.process_time(), 0.0, []
    loop = closed_loop(
        task, RandomAgent(task.action_space, rng, correlation=0.9), learn, ReplayBuffer(),
        num_episodes=max(evaluations) // 200, num_random_episodes=2,
        seed=1_000_000 + 1000 * seed,
    )  # fmt: skip
    for episode in loop:
        if episode.num_steps not in evaluations:
            continue
        now = time.process_time()
        regret = float((BEST - evaluate(task, player())).mean())
        ahead = {"ahead10": "", "ahead30": ""}
        last = episode.num_steps == max(evaluations)
        if last and isinstance(model, RecurrentModel) and not learner:
            ahead = {f"ahead{k}": round(eyes_shut(model, planner, world, seed, k), 3)
                     for k in (10, 30)}  # fmt: skip
        seconds = round(now - begin - evaluating, 1)
        found = {"steps": episode.num_steps, "seconds": seconds, "regret": round(regret, 2)}
        rows.append(key | found | ahead)
        evaluating += time.process_time() - now
    return rows


def knowing(method: str, world: str, planner: ICEM) -> np.ndarray:
    """Returns of who knows the equations, and sees everything, or what the others see."""
    full = get_task("Pendulum-v1")
    if method == "ceiling":
        return evaluate(full, MPCAgent(full, full.true_dynamics, planner))
    seen = WORLDS[world]
    agent = ParticleAgent(full, planner, noise=seen.get("noise", 0.0))
    return evaluate(pendulum_glimpses(**seen), agent)


@torch.inference_mode()
def eyes_shut(model: RecurrentModel, planner: ICEM, world: str, seed: int, ahead: int) -> float:
    """Error of what is imagined so many steps on, in units of the spread of what is seen.

    On episodes of the trained agent that nobody learned from, with noise on its actions; from all
    beliefs after the tenth look.
    """
    played = collect_episodes(
        model.task, BeliefAgent(model, planner, std=0.3), num_episodes=4, seed=500_000 + seed
    )
    clear, errors, targets = pendulum_glimpses(), [], []
    for number in played.episodes:
        rows = played[played.episode == number]
        actions = model.task.actions.encode(rows.action)
        truth = replay(clear, rows.action, 500_000 + seed + int(number))  # what there was to see
        obs = torch.tensor(np.concatenate([rows.obs, rows.next_obs[-1:]]))
        beliefs = model.filter(obs[None], actions[None])[0]
        starts = torch.arange(10, len(actions) - ahead)
        belief = beliefs[starts]
        for k in range(ahead):
            belief = model.step(belief, actions[starts + k]).next_obs
        seen = truth[starts + ahead]
        errors.append((model.look(belief)[:, :2] - seen).square().sum(1))
        targets.append(seen)
    everything = torch.cat(targets)
    spread = everything.var(0, correction=0).sum()
    return float((torch.cat(errors).mean() / spread).sqrt())


def replay(task: Task, actions: np.ndarray, seed: int) -> torch.Tensor:
    """Looks [T+1, 2] without blanks or noise, of the same actions from the same start."""
    place = iter([*actions, actions[-1]])
    played = collect_episodes(task, lambda obs: next(place)[None], num_episodes=1, seed=seed)
    return torch.tensor(np.concatenate([played.obs, played.next_obs[-1:]])[:, :2])


def steps_to(rows: list[dict]) -> int | None:
    """Steps at the first of two evaluations in a row with a regret of at most 60."""
    for row, after in itertools.pairwise(rows):
        if max(row["regret"], after["regret"]) <= REGRET:
            return row["steps"]
    return None


def main() -> None:
    arguments = parser(__doc__, range(5))
    arguments.add_argument("--controls", action="store_true", help="the rivals, too")
    arguments.add_argument("--short", action="store_true", help="no run beyond 800 steps")
    arguments.add_argument(
        "--only", nargs="+", choices=[title(one) for one in RUNS + CONTROLS],
        help="only these; a recording keeps its rows of the others",
    )  # fmt: skip
    options = arguments.parse_args()
    settings = RUNS + options.controls * CONTROLS
    if options.only:
        settings = [one for one in RUNS + CONTROLS if title(one) in options.only]
    if options.short:
        settings = [s | {"evaluations": tuple(n for n in s["evaluations"] if n <= FEW[0])}
                    for s in settings]  # fmt: skip
    rows = run_all(run, options, settings)
    for row in rows:
        row.pop("evaluations")
    if options.record:
        done = {title(row) for row in rows}
        header, old = recorded("hidden_state")
        kept = [row for row in old if title(row) not in done]
        record("hidden_state", kept + rows, earlier=header if kept else [])

    runs: dict[str, list[list[dict]]] = {}  # of each method, the rows of each seed
    for method, of_method in itertools.groupby(rows, title):
        runs[method] = [list(one) for _, one in itertools.groupby(of_method, itemgetter("seed"))]
    for method, seeds in runs.items():
        track = [" ".join(f"{r['steps']}:{r['regret']:.0f}" for r in one) for one in seeds]
        print(f"{method:26} {'  |  '.join(track)}")
    results = {}
    if ours := runs.get("hidden: ours"):
        results["steps_to_regret_60"] = [steps_to(one) for one in ours]
        results["cpu_seconds"] = [one[-1]["seconds"] for one in ours]
    measures = {"": "hidden: ours", "blanked_": "blanked: ours",
                "stack_": "hidden: stack", "stack_blanked_": "blanked: stack",
                "pixels_": "pixels: ours"}  # fmt: skip
    for name, method in measures.items():
        if seeds := runs.get(method):  # their last evaluation: 2,000, unless --short
            key = f"{name}regret_at_{seeds[0][-1]['steps']}"
            results[key] = [one[-1]["regret"] for one in seeds]
    finish("hidden_state", seeds=options.seeds, **results)


if __name__ == "__main__":
    main()
