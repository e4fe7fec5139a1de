"""Settings of the unit tests. Notebooks run under nbval do not load this file."""

import os
import sys

# Before anything imports torch: one thread each, for pytest runs two workers on two cores.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
os.environ["SDL_VIDEODRIVER"] = "dummy"

import matplotlib
import pytest

# Not by MPLBACKEND: a kernel that a test starts would inherit it and show no figures.
matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def one_thread_and_no_open_figures():
    """Without importing torch or pyplot for the tests that need neither."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
