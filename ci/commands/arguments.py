"""How the command line is read: one line for what is wrong, and numbers that are checked."""

import argparse
from collections.abc import Callable

from commands.errors import BadInput


class OneLineParser(argparse.ArgumentParser):
    def error(self, message: str):
        raise BadInput(f"{message} ({self.prog} --help)")


def positive(text: str) -> int:
    return whole(text, lambda value: value >= 1, "positive")


def port(text: str) -> int:
    return whole(text, lambda value: 1 <= value <= 65535, "a port: 1 to 65535")


def whole(text: str, fits: Callable[[int], bool], what: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is no integer") from None
    if not fits(value):
        raise argparse.ArgumentTypeError(f"{value} is not {what}")
    return value
