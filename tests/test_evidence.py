"""Controls: a headline beside its rival, the verdict, and what is collected of them."""

import asyncio
import itertools
import json
import sys

import controls
import numpy as np
import pytest
import scipy.stats
from nbformat.v4 import new_code_cell, new_notebook, writes
from run_notebooks import execute, normalise

from mbrl_helpers import evidence
from mbrl_helpers.evidence import (
    VERDICTS,
    bootstrap_interval,
    check_claims,
    claim,
    claims_summary,
    control,
    forget_claims,
    student_quantile,
)
from mbrl_helpers.exercises import nb12b

SEEDS = [0, 1, 2, 3, 4, 5]
NOISE = np.array([-3.0, -1.0, 0.0, 0.0, 1.0, 3.0])  # of the difference: the interval is about 0 ± 2


@pytest.fixture(autouse=True)
def fresh_notebook():
    """No claims yet."""
    forget_claims()
    yield
    forget_claims()


def compare(difference, verdict, *, noise=NOISE, **changed):
    """A control of values that differ by so much, give or take the noise."""
    theirs = np.linspace(100, 400, len(noise))  # pairs differ more from each other than within
    given = {
        "rival": "least squares does as well", "ours": theirs + difference + noise,
        "theirs": theirs, "seeds": SEEDS[: len(noise)], "margin": 10, "unit": "steps",
        "verdict": verdict,
    }  # fmt: skip
    control("networks are needed", **given | changed)


# --- the interval --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("freedom", "expected"), [(4, 2.776), (5, 2.571), (9, 2.262), (19, 2.093), (100, 1.984)]
)
def test_student_s_quantile(freedom, expected):
    assert student_quantile(freedom) == pytest.approx(expected, abs=0.01)


def test_interval_of_values_that_are_all_the_same_is_a_point():
    assert bootstrap_interval([7.0] * 5) == (7.0, 7.0)


def test_interval_of_many_values_is_the_normal_one():
    values = np.random.default_rng(1).normal(3, 2, size=2000)
    half = 1.96 * values.std() / np.sqrt(2000)
    low, high = bootstrap_interval(values)
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)


@pytest.mark.parametrize("size", [5, 10, 20])
def test_interval_holds_the_mean_nearly_as_often_as_it_says(size):
    """The plain bootstrap: 84 % for five values."""
    rng = np.random.default_rng(2)
    intervals = [bootstrap_interval(rng.normal(size=size), num_draws=2000) for _ in range(400)]
    assert 0.88 <= np.mean([low <= 0 <= high for low, high in intervals]) <= 0.98


def test_order_of_values_does_not_matter():
    values = [1.0, 4.0, 9.0, 16.0, 25.0]
    expected = bootstrap_interval(values)
    assert expected[0] < np.mean(values) < expected[1]
    for shuffled in itertools.islice(itertools.permutations(values), 0, 120, 17):
        assert bootstrap_interval(shuffled) == expected
    assert bootstrap_interval(-np.array(values)) == pytest.approx(
        (-expected[1], -expected[0]), abs=0.5
    )


# --- verdicts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("difference", "more_is_better", "verdict"),
    [
        (20, True, "ruled out"),
        (-20, True, "wins"),
        (20, False, "wins"),
        (-20, False, "ruled out"),
        (0, True, "stands beside it"),
        (5, True, "stands beside it"),
        (-5, False, "stands beside it"),
        (10, True, "undecided"),
        (-10, True, "undecided"),
        (10, False, "undecided"),
    ],
)
def test_each_verdict(capsys, difference, more_is_better, verdict):
    for said in VERDICTS:
        forget_claims()
        compare(difference, said, more_is_better=more_is_better)
        shown = capsys.readouterr().out
        assert f"rival {verdict}\n" in shown and "least squares does as well: " in shown
        assert "networks are needed" in shown
        assert "6 seeds" in shown
        assert shown.count("\n") == 4
        assert claims_summary() == (int(said == verdict), 1)
        assert shown.startswith("✓") == (said == verdict)
        if said == verdict:
            check_claims()
            capsys.readouterr()
        else:
            assert f"the text says {said!r}" in shown
            says = r"1 of 1 claims did not hold: networks are needed \(rival: least squares"
            with pytest.raises(AssertionError, match=says):
                check_claims()


def test_wide_interval_decides_nothing():
    compare(20, "undecided", noise=20 * NOISE)
    check_claims()


def test_the_same_everywhere_stands_beside_it_at_any_margin():
    compare(0, "stands beside it", noise=0 * NOISE, margin=0)
    compare(1, "ruled out", noise=0 * NOISE, margin=0, rival="by ever so little")
    check_claims()


def test_pairs_count_not_their_order(monkeypatch):
    """Unpaired, the spread of the pairs would hide the difference."""
    made = []
    monkeypatch.setattr(evidence, "say", made.append)
    theirs = np.array([100.0, 900.0, 300.0, 700.0, 500.0, 200.0])
    for order in (np.arange(6), np.array([5, 3, 1, 0, 2, 4])):
        values = {"ours": (theirs + 20 + NOISE)[order], "theirs": theirs[order]}
        compare(0, "ruled out", **values, seeds=order.tolist())
    assert made[0] == made[1]
    check_claims()


def test_starts_of_a_seed_are_one_run():
    starts = np.random.default_rng(0).normal(0, 100, size=(6, 10))
    starts -= starts.mean(axis=1, keepdims=True)  # within a seed they spread widely
    theirs = np.zeros((6, 10))
    compare(0, "ruled out", ours=theirs + 20 + NOISE[:, None] + starts, theirs=theirs)
    check_claims()


@pytest.mark.parametrize("num_seeds", [1, 2, 4])
def test_fewer_than_five_seeds_illustrate_and_decide_nothing(capsys, num_seeds):
    claim("something else", 1, at_least=0)
    compare(500, "illustration", noise=NOISE[:num_seeds])
    shown = capsys.readouterr().out
    assert "· illustration\n" in shown
    assert f"{num_seeds} seed" in shown
    assert claims_summary() == (1, 1)  # what can't fail is not counted
    for verdict in set(VERDICTS) - {"illustration"}:
        compare(500, verdict, noise=NOISE[:num_seeds])
        assert claims_summary() == (1, 2)
        with pytest.raises(AssertionError, match="1 of 2 claims did not hold"):
            check_claims()
    compare(500, "illustration", noise=NOISE[:num_seeds])  # the cell, mended and run again
    check_claims()


def test_ten_starts_of_one_seed_illustrate():
    compare(0, "illustration", ours=[[500] * 10], theirs=[[20] * 10], seeds=[0])
    claim("something else", 1, at_least=0)
    assert claims_summary() == (1, 1)


# --- what can't be meant -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"verdict": "holds"}, r"expected verdict as one of .*'wins'.*, got 'holds'\. Run it with"),
        ({"verdict": ""}, r"expected verdict as one of"),
        ({"margin": -1}, r"expected margin >= 0, got -1\. Give the smallest difference"),
        ({"margin": float("nan")}, r"expected margin >= 0, got nan"),
        ({"margin": float("inf")}, r"expected margin >= 0, got inf"),
        ({"seeds": []}, r"expected seeds, each once, got \[\]\. Give the seed of each run"),
        ({"seeds": [0, 1, 2, 3, 4, 4]}, r"expected seeds, each once, got \[0, 1, 2, 3, 4, 4\]"),
        ({"seeds": [0]}, r"expected ours as a row for each of 1 seeds, got .*\(6,\).*are one row"),
        ({"ours": [1, 2, 3]}, r"expected ours as a row for each of 6 seeds, got .*shape \(3,\)"),
        ({"theirs": [1, 2, 3]}, r"expected theirs as a row for each of 6 seeds, got .*\(3,\)"),
        ({"theirs": np.zeros((6, 0))}, r"expected theirs as a row for each"),
        ({"ours": 3.0, "seeds": [0]}, r"expected ours as a row for each of 1 seeds, got .*\(\)"),
        (
            {"theirs": np.zeros((6, 2))},
            r"expected ours and theirs from the same starts, got \(6, 1\) and",
        ),
        ({"ours": [1, 2, 3, 4, 5, np.nan]}, r"expected finite numbers in ours, got .*A run that"),
        ({"theirs": [1, 2, 3, 4, 5, np.inf]}, r"expected finite numbers in theirs, got"),
    ],
)
def test_bad_input_in_words(changed, says):
    with pytest.raises(ValueError, match=f"control: {says}"):
        compare(20, **{"verdict": "ruled out"} | changed)
    assert claims_summary() == (0, 0)


# --- the table of all controls -------------------------------------------------------------------

CELLS = """from mbrl_helpers import notebook
notebook.start()
five = dict(ours=[9, 8, 9, 8, 9], theirs=[1] * 5, seeds=range(5), margin=2, unit="steps")
notebook.control("A", rival="b | c", verdict="ruled out", **five)
notebook.control("A", rival="d", verdict="wins", **five)
notebook.control("A", rival="e", ours=[3], theirs=[1], seeds=[0], margin=2, unit="m",
                 verdict="illustration")"""


def test_controls_of_a_notebook_are_collected(tmp_path, capsys, monkeypatch):
    nb = new_notebook(cells=[new_code_cell(CELLS), new_code_cell("notebook.check_claims()")])
    ran, state = asyncio.run(execute(nb, tmp_path, seed=0, timeout=60))
    assert "1 of 2 claims did not hold: A (rival: d)" in ran["error"]
    normalise(nb, state)
    path = tmp_path / "03_mine.ipynb"
    path.write_text(writes(nb), encoding="utf-8")
    texts = [o.data["text/plain"] for o in nb.cells[0].outputs if "data" in o]
    assert [text[0] for text in texts] == ["✓", "✗", "·"]

    monkeypatch.setattr(sys, "argv", ["controls.py", str(path)])
    assert controls.main()
    *lines, data = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 3
    assert lines[2].startswith("| 03_mine | A | b \\| c | 5 | +7.6 [+7, +")
    assert lines[2].endswith(" steps (margin 2) | ruled out |")
    assert lines[3].endswith("| **ruled out** (the text says: wins) |")
    assert lines[4] == "| 03_mine | A | e | 1 | +2 m (margin 2) | illustration |"
    found = json.loads(data)["controls"]
    assert [made["rival"] for made in found] == ["b | c", "d", "e"]
    assert found[0]["seeds"] == [0, 1, 2, 3, 4]
    assert (found[0]["ours"], found[0]["theirs"], found[2]["interval"]) == (8.6, 1, None)
    nb.cells[0].outputs.pop(-2)
    path.write_text(writes(nb), encoding="utf-8")
    assert not controls.main()


def test_notebook_12bs_statistics_are_the_fields_own():
    rng = np.random.default_rng(0)
    for size, other in ((1, 1), (3, 8), (10, 10), (41, 7)):
        ours, theirs = np.round(rng.normal(size=size), 1), np.round(rng.normal(size=other), 1)
        assert nb12b.iqm(ours) == pytest.approx(scipy.stats.trim_mean(ours, 0.25))
        wins = scipy.stats.mannwhitneyu(ours, theirs).statistic  # as rliable has it
        share = nb12b.probability_of_improvement(ours, theirs)
        assert share == pytest.approx(wins / (size * other))
