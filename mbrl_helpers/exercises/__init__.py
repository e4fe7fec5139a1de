"""Exercises that answer back: the frame, and one module a notebook (`nb00`, `nb03`, …)."""

from mbrl_helpers.exercises.builds import build, starter
from mbrl_helpers.exercises.frame import exercise, hint, predict, solution
from mbrl_helpers.exercises.progress import progress

__all__ = ["build", "exercise", "hint", "predict", "progress", "solution", "starter"]
