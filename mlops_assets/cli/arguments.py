"""The arguments that several commands share: their types, and options that may be given once."""

from __future__ import annotations

import argparse
import sys
from datetime import date
from typing import Any, NoReturn


class Once(argparse.Action):
    """An option that may be given once. argparse would let a second value replace the first silently."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        given = namespace.__dict__.setdefault("_given", set())
        if self.dest in given:
            parser.error(f"argument {option_string}: given twice, the second time as {values}")
        given.add(self.dest)
        setattr(namespace, self.dest, values)


class Parser(argparse.ArgumentParser):
    """A parser whose usage errors are one line on stderr and exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Print the usage error as one line on stderr, and exit with 2."""
        print(f"{self.prog}: {message}", file=sys.stderr)
        raise SystemExit(2)


def add_days(parser: argparse.ArgumentParser, kind: str) -> None:
    """Add `--from` and `--to`: the first and the last day, as `first` and `last`."""
    parser.add_argument(
        "--from",
        dest="first",
        type=day,
        required=True,
        action=Once,
        metavar="DAY",
        help=f"first {kind}, such as 2018-04-01",
    )
    parser.add_argument(
        "--to",
        dest="last",
        type=day,
        required=True,
        action=Once,
        metavar="DAY",
        help=f"last {kind}, included",
    )


def add_reason(parser: argparse.ArgumentParser) -> None:
    """Add `--reason`, which every decision of a person needs."""
    parser.add_argument(
        "--reason",
        type=text,
        required=True,
        action=Once,
        metavar="TEXT",
        help="why; it is kept in the history",
    )


def text(given: str) -> str:
    """Text with at least one visible character, without the spaces around it."""
    if given.strip():
        return given.strip()
    raise argparse.ArgumentTypeError(f"{given!r} says nothing")


def version(given: str) -> str:
    """The number of a version. An empty value, as of an unset shell variable, is refused."""
    if given.isascii() and given.isdigit() and given[0] != "0":
        return given
    raise argparse.ArgumentTypeError(f"{given!r} is not the number of a version, such as 3")


def number_of_days(given: str) -> int:
    """A number of days, at least one."""
    if given.isascii() and given.isdigit() and int(given) > 0:
        return int(given)
    raise argparse.ArgumentTypeError(f"{given!r} is not a number of days from 1 up")


def number_of_decisions(given: str) -> int:
    """A number of decisions, at least one."""
    if given.isascii() and given.isdigit() and int(given) > 0:
        return int(given)
    raise argparse.ArgumentTypeError(f"{given!r} is not a number of decisions from 1 up")


def day(given: str) -> str:
    """An ISO date. Other forms that Python reads as a date are refused."""
    try:
        if date.fromisoformat(given).isoformat() == given:
            return given
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{given!r} is not a day like 2018-04-01")
