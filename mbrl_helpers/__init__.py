"""Helpers of a hands-on course on model-based reinforcement learning.

One module an idea: `envs` (tasks and their true dynamics), `data` (experience), `dynamics`
(learned models), `planners`, `agents`, `training` (the closed loop). `plotting`, `notebook` and
`exercises` serve the notebooks only.
"""

__version__ = "0.1.0"
