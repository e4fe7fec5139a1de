"""What the course reaches: the tables of the book, from the recordings that the notebooks read."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from pages import RECORDED, table

Row = dict[str, str]
SOLVED, CLOSE = 475.0, 25.0  # mean return on CartPole; regret on Pendulum


@dataclass(frozen=True)
class Result:
    """One table: a heading, what was given to the agent, its recording, rows of numbers."""

    title: str
    says: str
    recording: str
    head: list[str]
    rows: list[list[str]]


def rows_of(name: str, **where: str) -> list[Row]:
    """Rows of a recording with these values in these columns."""
    lines = (RECORDED / f"{name}.csv").read_text(encoding="utf-8").splitlines()
    rows = csv.DictReader(line for line in lines if line[:1] != "#")
    return [row for row in rows if all(row[k] == v for k, v in where.items())]


def by_seed(rows: list[Row]) -> dict[str, list[Row]]:
    """Rows of each seed, in their order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["seed"], []).append(row)
    return found


def number(value: float) -> str:
    """Three digits that matter, and commas from a thousand on."""
    if value == float("inf"):
        return "never"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def spread(values: Sequence[float], worst: Callable = max) -> list[str]:
    """Median and worst, as cells."""
    return [number(median(values)), number(worst(values))]


def first_step(rows: list[Row], good: Callable[[Row], bool], in_a_row: int = 1) -> float:
    """Real steps at the first of so many good evaluations in a row; infinite if there is none."""
    for i in range(len(rows) - in_a_row + 1):
        if all(good(row) for row in rows[i : i + in_a_row]):
            return float(rows[i]["steps"])
    return float("inf")


def _solved(row: Row) -> bool:
    return float(row["mean_return"]) >= SOLVED


def _close(row: Row) -> bool:
    return float(row["regret"]) <= CLOSE


def cartpole() -> Result:
    """Steps and seconds until the pole is balanced."""
    seeds = list(by_seed(rows_of("cartpole")).values())
    at = [next(row for row in runs if _solved(row)) for runs in seeds]
    rows = [
        ["real steps until the mean of ten episodes is at least 475", *spread([first_step(r, _solved) for r in seeds])],
        ["the same, three times in a row", *spread([first_step(r, _solved, 3) for r in seeds])],
        ["seconds from a fresh process to that point, evaluation excluded", *spread([float(r["seconds"]) for r in at])],
        ["milliseconds per decision", *spread([float(r["decision_ms"]) for r in at])],
    ]  # fmt: skip
    says = "Given: how far cart and pole are from their limits, as the objective. Learned: dynamics and termination."
    return Result(
        "CartPole-v1",
        says,
        "cartpole",
        ["measure", f"median of {len(seeds)} seeds", "worst seed"],
        rows,
    )


def dynamics() -> Result:
    """The error of predictions, repair by repair."""
    found = rows_of("dynamics_repairs", exam="held-out random episodes", steps_ahead="50")
    names = list(dict.fromkeys(row["model"] for row in found))
    rows = [[n, *spread([float(r["error"]) for r in found if r["model"] == n])] for n in names]
    says = (
        "1,000 random transitions; the error 50 steps ahead on held-out episodes, each step predicted from the one "
        "before, in standard deviations of the data. Each repair is on top of those above it."
    )
    head = ["model", f"median of {len(by_seed(found))} seeds", "worst seed"]
    return Result("Predictions of CartPole-v1", says, "dynamics_repairs", head, rows)


def pendulum() -> Result:
    """The loop on Pendulum, beside model-free rivals."""
    seeds = list(by_seed(rows_of("pendulum")).values())
    rows = [
        [
            "the course's loop",
            *spread([first_step(r, _close) for r in seeds]),
            *spread([float(r[-1]["regret"]) for r in seeds]),
        ]
    ]
    best = [float(row["best_return"]) for row in rows_of("pendulum_optimum")]
    starts = sum(best[:10]) / 10  # those of the rivals' evaluations
    free = rows_of("model_free", task="Pendulum-v1")
    for name in dict.fromkeys(row["algorithm"] for row in free):
        runs = [
            [r | {"regret": str(starts - float(r["mean_return"]))} for r in one]
            for one in by_seed([r for r in free if r["algorithm"] == name]).values()
        ]
        rows.append(
            [
                name,
                *spread([first_step(r, _close) for r in runs]),
                *spread([float(r[-1]["regret"]) for r in runs]),
            ]
        )
    says = (
        f"Real steps until the regret is at most {CLOSE:g}, evaluated on the same ten starts, and the regret of the last evaluation: after 2,000 "
        "steps for the loop, at the end of their training for the others. Regret is the loss against the best returns there are, by dynamic "
        "programming. Given to the loop: that two numbers are cosine and sine of one angle. Rivals: stable-baselines3 with tuned settings; today's take several updates a step and normalise their layers."
    )  # fmt: skip
    head = ["agent", "steps, median", "worst seed", "last regret, median", "worst seed"]
    return Result("Pendulum-v1", says, "pendulum", head, rows)


def classics() -> Result:
    """What was done before networks, and model and planner on the same starts."""
    found = rows_of("classics")
    rows = []
    for key in dict.fromkeys((row["task"], row["method"], row["episodes"]) for row in found):
        mine = [r for r in found if (r["task"], r["method"], r["episodes"]) == key]
        regret = spread([float(row["regret"]) for row in mine])
        seconds = number(median(float(row["fit_seconds"]) for row in mine))
        rows.append([*key, *regret, seconds, str(len(mine))])
    rows.sort(key=lambda row: (row[0], int(row[2])))
    says = (
        "Regret after so many episodes: against 500 (CartPole), and against the best returns there are (Pendulum). Given: to LQR the "
        "weights of state and action, to *energy* mass, length and gravity, to all on Pendulum the angle. *Ours* is the course's model and planner."
    )
    head = [
        "task",
        "method",
        "episodes",
        "regret, median",
        "worst seed",
        "seconds of a fit",
        "seeds",
    ]
    return Result("Formulas, and Gaussian processes", says, "classics", head, rows)


def scaling() -> Result:
    """Seconds by size."""
    rows = [
        [row["what"], f"{int(row['size']):,}", number(float(row["seconds"])), row["megabytes"],
         f"{float(row['share_of_peak']):.0%}" if row["share_of_peak"] else ""]
        for row in rows_of("scaling")
    ]  # fmt: skip
    says = (
        "One core, except for *cores*. Rows and members: a fit to its own stopping rule; candidates and horizon: a decision of random shooting in "
        "five networks; environments: 16,000 random steps in so many side by side; cores: eight fits, by the clock. Where products of matrices are "
        "the work, their share of the most that the core can do in large ones."
    )
    return Result(
        "What size costs",
        says,
        "scaling",
        ["what", "size", "seconds", "MB more", "of the peak"],
        rows,
    )


def policies() -> Result:
    """Policies learned in models, and the same learner without."""
    names = {
        "backprop": "a policy through the model",
        "dyna": "an actor-critic on short imagined branches",
        "sac": "the same actor-critic, as many updates, real rows only",
        "sac_one": "the same, one update a real step",
        "distill": "a pupil of the planner",
    }
    rows = []
    for key, name in names.items():
        runs = list(by_seed(rows_of("policy", method=key)).values())
        if runs:
            steps = max(int(r["steps"]) for r in runs[0])
            last = [float(r[-1]["regret"]) for r in runs]
            rows.append([name, str(len(runs)), f"{steps:,}", *spread(last)])
    says = "Regret on Pendulum-v1 after so many real steps, twenty starts."
    head = ["learner", "seeds", "real steps", "regret, median", "worst seed"]
    return Result("Policies learned in imagination", says, "policy", head, rows)


def cars() -> Result:
    """Laps from pixels, and what each part of the agent is worth."""
    rows = []
    found = rows_of("car_racing")
    for name in dict.fromkeys(row["variant"] for row in found):
        own = [r for r in found if r["variant"] == name]
        for seed, laps in sorted(by_seed(own).items()):
            values = [float(r["return"]) for r in laps]
            rows.append(
                [
                    name,
                    seed,
                    str(len(values)),
                    number(sum(values) / len(values)),
                    number(min(values)),
                ]
            )
    frames = max(int(r["real_frames"]) for r in found)
    says = (
        f"Unseen tracks, after at most {frames:,} real frames. Given: which colours are road, where the dashboard's bars are, the camera's place above "
        "the car, and that without gas no car gets faster. *full* is the agent of the notebook, each other row has one part changed."
    )
    return Result(
        "CarRacing-v3 from pixels",
        says,
        "car_racing",
        ["agent", "seed", "tracks", "mean return", "worst track"],
        rows,
    )


def minatar() -> Result:
    """Games learned in dreams: the last evaluation of each kind of agent."""
    found, rows = rows_of("atari"), []
    for game, agent in dict.fromkeys((r["game"], r["agent"]) for r in found):
        own = [r for r in found if (r["game"], r["agent"]) == (game, agent)]
        amounts = sorted({int(r["frames"]) for r in own})
        for frames in amounts if agent == "DQN" else amounts[-1:]:
            values = [float(r["mean_return"]) for r in own if int(r["frames"]) == frames]
            rows.append(
                [
                    game,
                    agent,
                    f"{frames:,}",
                    str(len(values)),
                    *spread(values, min),
                    number(max(values)),
                ]
            )
    says = (
        "Mean return of thirty games. *dream* learns in dreams of a learned next-frame model; the row below also searches that model while it plays. "
        "Freeway's settings are those that the notebook finds: the other rows named Freeway show the way there."
    )
    head = ["game", "agent", "real frames", "seeds", "median", "worst", "best"]
    return Result("MinAtar", says, "atari", head, rows)


def pong() -> Result:
    """Atari's Pong from pixels."""
    seeds = by_seed(rows_of("pong")).items()
    rows = [
        [s, number(float(r[-1]["mean_return"])), number(float(r[0]["mean_return"]))]
        for s, r in seeds
    ]
    says = "Three whole games after 20,000 steps. Given: where paddles and ball are, by their colours, and that the court is symmetric."
    return Result(
        "Atari's Pong from pixels", says, "pong", ["seed", "mean score", "at random"], rows
    )


def hidden() -> Result:
    """Pendulum without its velocity: beliefs, and what stands in their place."""
    worlds = {"hidden": "velocity hidden", "blanked": "and half of the looks blank",
              "noisy": "and the rest with noise of 0.1", "pixels": "pictures of 16 x 16"}  # fmt: skip
    methods = {"ours": "belief", "stack": "stacked looks", "ceiling": "state and true equations",
               "particle filter": "particles and true equations",
               "actor and critic": "none: an actor that dreams, of a belief"}  # fmt: skip
    early = {("hidden", "400"), ("pixels", "1400"), ("hidden", "1400")}
    compared: list[tuple[str, str, str, float]] = []
    for row in rows_of("hidden_state"):
        name = methods.get(row["method"], f"belief, {row['method']}")
        compared.append((row["world"], name, row["steps"], float(row["regret"])))
    for row in rows_of("hidden_model_free"):
        name = f"none: {row['method']}"
        compared.append((row["world"], name, row["steps"], float(row["regret"])))
        if int(row["steps"]) not in (800, 2000):
            early.add((row["world"], row["steps"]))
    rows = []
    for world in worlds:
        here = [c for c in compared if c[0] == world and (world, c[2]) not in early]
        for key in dict.fromkeys(c[1:3] for c in here):
            regrets = [c[3] for c in here if c[1:3] == key]
            rows.append([worlds[world], *key, str(len(regrets)), *spread(regrets)])
    says = (
        "Regret against the best returns there are for who sees everything, ten starts, one planner for all who plan. Given: which two of what is seen are "
        "the cosine and sine of one angle, and whether a look is blank; of pictures, that what they show turns."
    )
    head = ["world", "plans from", "real steps", "seeds", "regret, median", "worst seed"]
    return Result("Pendulum without its velocity", says, "hidden_state", head, rows)


def boards() -> Result:
    """Tic-tac-toe and Connect Four learned by self-play, and what that is due to."""
    found, rows = rows_of("boards"), []
    for key in dict.fromkeys((r["part"], r["player"], r["measure"]) for r in found):
        own = [r for r in found if (r["part"], r["player"], r["measure"]) == key]
        game, player, measure = key
        lower = measure in ("losing leaves", "milliseconds a move, 200 boards at once")
        values = [float(r["value"]) for r in own]
        cells = [f"{v:.4g}" for v in (median(values), (max if lower else min)(values))]
        rows.append([game.split(",")[0], player, measure, str(len(own)), *cells])
    says = (
        "*Losing leaves*: boards on which the player has lost when all replies are walked, both sides. *Scores*: wins and half the draws. *Optimal moves*: "
        "on 200 fixed positions, judged by a solver. 200 simulations a move where nothing else is said. Given: the rules, but for *learned rules*."
    )
    head = ["game", "player", "measure", "seeds", "median", "worst seed"]
    return Result("Board games", says, "boards", head, rows)


def search_speed() -> Result:
    """Simulations a second, beside other people's searches."""
    rows = [
        [*row["part"].split(": "), f"{int(row['simulations_per_second']):,}"]
        for row in rows_of("boards_speed")
    ]
    says = (
        "Connect Four, one core, 200 simulations a move. With rollouts a search in a compiled language is far ahead, and ours needs many games side "
        "by side to be as fast as one in Python; with a network it is as fast as one that is compiled."
    )
    return Result(
        "The speed of a tree search",
        says,
        "boards_speed",
        ["what a leaf is worth", "search", "simulations a second"],
        rows,
    )


def muzero() -> Result:
    """What it costs when the rules are learned in a latent space."""
    found, rows = rows_of("muzero"), []
    for player, games in dict.fromkeys((r["player"], int(r["games"])) for r in found):
        if games not in (384, 768, 1536, 3072):
            continue
        own = [r for r in found if (r["player"], int(r["games"])) == (player, games)]
        seconds = number(median(float(r["cpu_seconds"]) for r in own))
        lost = spread([float(r["lost"]) for r in own])
        rows.append([player, f"{games:,}", own[0]["updates"], seconds, str(len(own)), *lost])
    says = (
        "Tic-tac-toe learned by self-play. *Latent rules*, as MuZero has them, predict reward, policy and value from a latent vector, and no board; legal "
        "moves are given at the root only. The same self-play with the *true rules* beside it. Lost: boards on which the player can be beaten when all "
        "replies are walked. Seconds are those of self-play and learning on one core."
    )
    head = [
        "player",
        "games",
        "updates",
        "CPU seconds",
        "seeds",
        "boards lost, median",
        "worst seed",
    ]
    return Result("Latent rules", says, "muzero", head, rows)


def uct_worlds() -> Result:
    """Tree search and random shooting where nobody answers."""
    found, rows = rows_of("uct_worlds"), []
    keys = ("world", "model", "objective", "horizon", "planner")
    for key in sorted({tuple(r[k] for k in keys) for r in found}):
        own = [r for r in found if tuple(r[k] for k in keys) == key]
        calls = number(median(float(r["calls"]) for r in own))
        returns = spread([float(r["mean_return"]) for r in own], min)
        rows.append([*key, calls, str(len(own)), *returns])
    says = (
        "Mean return of ten starts of CartPole-v1, and of five games of MinAtar's Breakout that are cut after 200 frames. Each planner may try as many random "
        "futures as the others: UCT in a tree; *best plan* is random shooting, *best mean* averages over the plans that begin with an action. Learned from "
        "200 random steps, or 10,000 random frames. *Margin* is the course's objective of CartPole."
    )
    head = [
        "world",
        "model",
        "objective",
        "steps ahead",
        "planner",
        "model calls a decision",
        "seeds",
        "median",
        "worst seed",
    ]
    return Result("A tree where nobody answers", says, "uct_worlds", head, rows)


RESULTS = (
    cartpole, dynamics, pendulum, classics, policies, cars, minatar, pong, hidden, boards,
    search_speed, muzero, uct_worlds, scaling
)  # fmt: skip


def page() -> str:
    """All tables in Markdown, each with its recording."""
    parts = []
    for make in RESULTS:
        one = make()
        source = f"*Recorded:* `{one.recording}.csv`; see [where figures come from](figures.md)."
        parts.append(f"## {one.title}\n\n{one.says}\n\n{table(one.head, one.rows)}\n\n{source}")
    return "\n\n".join(parts)


def in_short() -> str:
    """The README's table: one line a task."""
    pole, swing, race, games = cartpole(), pendulum(), cars(), minatar()
    full = [row for row in race.rows if row[0] == "full"]
    laps = [float(row[3]) for row in full]
    rule = next(row for row in race.rows if row[0] == "by hand")
    beliefs = {tuple(row[:3]): row for row in hidden().rows}
    blank, drawn = "and half of the looks blank", "pictures of 16 x 16"
    stack, codes = beliefs[blank, "stacked looks", "800"], beliefs[drawn, "stacked looks", "2000"]
    seen = beliefs[drawn, "belief", "2000"]
    score = {(row[1], row[2]): row for row in boards().rows}
    four = score["network and search", "score against UCT 200"]
    alone = score["network alone", "score against UCT 200"]
    best = {row[1]: row for row in games.rows if row[0] == "Breakout"}
    rival = next(row for row in games.rows if row[:3] == ["Breakout", "DQN", "10,000"])
    learner = next(row for row in policies().rows if row[0] == "a policy through the model")
    steps = {row[0]: row[1] for row in swing.rows}
    lqr = next(row for row in classics().rows if row[:3] == ["CartPole-v1", "LQR", "3"])
    paddle = pong().rows
    rows = [
        ["CartPole-v1", "real steps to a mean of 475 of 500", f"{pole.rows[0][1]} ({pole.rows[0][2]})", f"LQR, from three random episodes: {500 - float(lqr[3]):g} of 500"],
        ["Pendulum-v1, planning", "real steps to a regret of 25", f"{swing.rows[0][1]} ({swing.rows[0][2]})", f"SAC, tuned: {steps['SAC']}; today's SAC: {steps['SAC today']}"],
        ["Pendulum-v1, a policy", f"regret after {learner[2]} real steps", f"{learner[3]} ({learner[4]})", ""],
        ["CarRacing-v3, pixels", "mean return of twenty unseen tracks", "{} ({})".format(*spread(laps, min)), f"a rule by hand: {rule[3]}"],
        ["MinAtar Breakout", "mean return after 10,000 frames", "{4} ({5})".format(*best["dream and look ahead"]), f"DQN, as many frames: {rival[4]}"],
        ["Atari's Pong, pixels", "mean score after 20,000 steps, three seeds", ", ".join(row[1] for row in paddle), f"at random: {paddle[0][2]}"],
        ["Pendulum, no velocity, half of the looks blank", f"regret after {stack[2]} real steps", "{4} ({5})".format(*beliefs[blank, "belief", "800"]), f"six stacked looks: {stack[4]}"],
        ["Pendulum from pictures of 16 x 16", "regret after 2,000 real steps", f"{seen[4]} ({seen[5]})", f"two stacked codes: {codes[4]}"],
        ["Connect Four", "score against UCT, 200 simulations each", f"{four[4]} ({four[5]})", f"without search: {alone[4]}"],
    ]  # fmt: skip
    return table(["task", "measure", "the course", "beside it"], rows)
