"""Exercises that answer back: the frame, and one module a notebook (`nb00`, `nb03`, …)."""

from mbrl_helpers.exercises.frame import exercise, hint, predict, solution

__all__ = ["exercise", "hint", "predict", "solution"]
