"""Printing, wherever a notebook's code is run."""

import sys


def say(text: str) -> None:
    """Print; a console that lacks a letter, such as ✓ or é, shows a question mark in its place."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding))
