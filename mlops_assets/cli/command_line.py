"""The `mlops` command: a thin layer over the assets.

Whatever it does, the Dagster UI and `dagster asset materialize` can do too.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NoReturn

from mlops_assets.errors import is_interrupted, told


class Once(argparse.Action):
    """An option that may be given once; a second value would silently win."""

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
    """Usage errors are one line and exit 2."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}", file=sys.stderr)
        raise SystemExit(2)


def main(arguments: Sequence[str] | None = None, interrupted: Callable[[], bool] = bool) -> int:
    """Run one command.

    An error is one line on stderr and exit 1, wrong usage exits 2; with `--json` the last line on stdout is
    one object.

    Ctrl-C is exit 130. `interrupted` says whether it has come, where a library has turned it into an error of
    its own.
    """
    try:
        options = parser().parse_args(arguments)
        if options.config:
            os.environ["MLOPS_CONFIG"] = str(Path(options.config).absolute())
        if options.debug:
            os.environ["MLOPS_TRACEBACK"] = "1"
        os.environ.setdefault("DO_NOT_TRACK", "true")  # MLflow does not take 1 for a yes
        os.environ.setdefault("FEAST_USAGE", "False")
        outcome = options.run(options)
        if outcome is not None:
            from mlops_assets.cli.commands import readable

            print(json.dumps(outcome, default=str) if options.json else readable(outcome))
    except SystemExit:
        raise
    except BaseException as error:
        if interrupted() or is_interrupted(error):
            print(
                "mlops: interrupted; what was written is whole, and the same command goes on from there",
                file=sys.stderr,
            )
            return 128 + signal.SIGINT
        if os.environ.get("MLOPS_TRACEBACK") or not isinstance(error, Exception):
            raise
        print(f"mlops: {told(error)}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    from mlops_assets.cli import (
        commands,
        decisions,
        trainings,  # here, so that Ctrl-C during these imports is one during a command
    )

    top = Parser(
        prog="mlops",
        description=(
            "Keeps a fraud model good in production: features, training, gate, serving, drift and retraining."
        ),
    )
    top.add_argument(
        "--config",
        metavar="FILE",
        action=Once,
        help="the TOML file that configures the platform (or MLOPS_CONFIG)",
    )
    top.add_argument(
        "--debug",
        action="store_true",
        help="errors keep their traceback (or MLOPS_TRACEBACK=1); after the command, too",
    )
    names = top.add_subparsers(metavar="COMMAND", parser_class=Parser)

    def command(name: str, run: Callable[[argparse.Namespace], Any], text: str) -> argparse.ArgumentParser:
        one = names.add_parser(name, help=text, description=text)
        one.add_argument("--json", action="store_true", help="print one JSON object as the last line")
        one.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="errors keep their traceback"
        )
        one.set_defaults(run=run)
        return one

    demo = command(
        "demo",
        lambda o: commands.demo(o.home, o.json),
        "the whole loop on a simulated bank: drift becomes a better model",
    )
    demo.add_argument(
        "--home",
        type=Path,
        default=Path("var/demo"),
        action=Once,
        help="where it keeps its state (var/demo); emptied first",
    )

    backfill = command(
        "backfill",
        lambda o: _backfill(o, backfill),
        "materialize arrival days, or walk forward over as-of days of the model group",
    )
    _days(backfill, "arrival day, or as-of day of the model group")
    groups = ["ingest", "features", "monitoring", "model"]
    backfill.add_argument(
        "--group",
        choices=groups,
        action=Once,
        help="only this group (ingest and features); model: train as of each day, promote nothing, report",
    )
    backfill.add_argument(
        "--step",
        type=_step,
        action=Once,
        metavar="DAYS",
        help="of the model group: from one as-of day to the next (1)",
    )

    train = command(
        "train",
        lambda o: trainings.train(o.as_of, o.again),
        "train, evaluate and, if the gate agrees, promote as of a day",
    )
    train.add_argument(
        "--as-of",
        type=_day,
        required=True,
        action=Once,
        metavar="DAY",
        help="read what had arrived before this day",
    )
    train.add_argument(
        "--again",
        action="store_true",
        help="even if a version of the same data, configuration and commit exists",
    )

    score = command(
        "score",
        lambda o: commands.score(o.first, o.last, o.out, o.version, o.as_of),
        "score past days with a version into a Parquet file",
    )
    _days(score, "arrival day")
    score.add_argument("--out", type=Path, required=True, action=Once, metavar="FILE")
    which = score.add_mutually_exclusive_group()
    which.add_argument("--version", type=_version, action=Once, help="a registered version (the champion)")
    which.add_argument(
        "--as-of", type=_day, action=Once, metavar="DAY", help="the version that was trained as of this day"
    )

    compare = command(
        "compare",
        lambda o: commands.compare(o.version, o.other, o.first, o.last, o.json),
        "how two versions would have done on past days that neither was trained on",
    )
    compare.add_argument("version", type=_version, metavar="VERSION", help="a registered version")
    compare.add_argument("other", type=_version, metavar="OTHER", help="the one that it is compared with")
    _days(compare, "arrival day")

    promote = command(
        "promote",
        lambda o: decisions.promote(o.version, o.reason, o.refuse),
        "make an evaluated version champion, on a person's word",
    )
    promote.add_argument(
        "version", type=_version, metavar="VERSION", help="a registered version that was evaluated"
    )
    promote.add_argument(
        "--refuse", action="store_true", help="refuse it instead: no machine promotes it after that"
    )
    _reason(promote)

    rollback = command(
        "rollback",
        lambda o: decisions.rollback(o.reason),
        "return to the champion before; this one is not promoted again by itself",
    )
    _reason(rollback)
    command(
        "history",
        lambda o: decisions.history(o.json),
        "print every promotion, refusal and rollback, and verify that none was altered",
    )

    serve = command("serve", lambda o: commands.serve(o), "start the scoring service")
    serve.add_argument("--host", default="127.0.0.1", action=Once)
    serve.add_argument("--port", type=int, default=8000, action=Once)
    serve.add_argument("--workers", type=int, default=1, action=Once)
    serve.add_argument(
        "--clock",
        choices=["wall", "event"],
        default="wall",
        action=Once,
        help="event: replay past days by their own time",
    )
    serve.add_argument(
        "--now",
        type=_day,
        action=Once,
        metavar="DAY",
        help="with --clock event: the day from which event time goes on",
    )

    reproduce = command(
        "reproduce",
        lambda o: commands.reproduce(o.version, o.record),
        "make a version again from what was recorded, and compare",
    )
    reproduce.add_argument("version", type=_version, metavar="VERSION", help="a registered version")
    reproduce.add_argument(
        "--record",
        type=Path,
        action=Once,
        metavar="FILE",
        help="the provenance.json of a version that another home has",
    )

    command(
        "rebuild-online",
        lambda o: commands.rebuild_online(),
        "make the online state anew from the lake and the log, while the service goes on",
    )
    dev = command(
        "dev",
        lambda o: commands.dev(o.port, o.mlflow_port),
        "start Dagster, its daemon with it, and MLflow's UI on this platform",
    )
    dev.add_argument("--port", type=int, default=3000, action=Once, help="of Dagster (3000)")
    dev.add_argument(
        "--mlflow-port", type=int, default=5000, action=Once, metavar="PORT", help="of MLflow (5000)"
    )
    command(
        "status",
        lambda o: commands.status(),
        "what is materialized, which version is champion, what the gate decided last",
    )
    command(
        "doctor",
        lambda o: commands.doctor(o.json),
        "check that everything the platform needs is here, and look at the feeds",
    )
    top.set_defaults(
        run=lambda o: top.error(
            f"COMMAND is missing: one of {', '.join(names.choices)}; `mlops COMMAND --help` says more"
        )
    )
    return top


def _backfill(options: argparse.Namespace, usage: argparse.ArgumentParser) -> Any:
    from mlops_assets.cli import commands, trainings

    if options.group == "model":
        return trainings.walk_forward(options.first, options.last, options.step or 1, options.json)
    if options.step is not None:
        usage.error(
            "argument --step: only with --group model, not"
            f" {'with --group ' + options.group if options.group else 'without a group'}"
        )
    return commands.backfill(options.first, options.last, options.group)


def _days(command: argparse.ArgumentParser, kind: str) -> None:
    command.add_argument(
        "--from",
        dest="first",
        type=_day,
        required=True,
        action=Once,
        metavar="DAY",
        help=f"first {kind}, such as 2018-04-01",
    )
    command.add_argument(
        "--to",
        dest="last",
        type=_day,
        required=True,
        action=Once,
        metavar="DAY",
        help=f"last {kind}, included",
    )


def _reason(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--reason",
        type=_text,
        required=True,
        action=Once,
        metavar="TEXT",
        help="why; it is kept in the history",
    )


def _text(text: str) -> str:
    if text.strip():
        return text.strip()
    raise argparse.ArgumentTypeError(f"{text!r} says nothing")


def _version(text: str) -> str:
    """An empty one, as of a variable of the shell that is not set, is not the champion."""
    if text.isascii() and text.isdigit() and text[0] != "0":
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is not the number of a version, such as 3")


def _step(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of days from 1 up")


def _day(text: str) -> str:
    try:
        if (day := date.fromisoformat(text)).isoformat() == text:
            return day.isoformat()
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not a day like 2018-04-01")


if __name__ == "__main__":
    from mlops_assets.__main__ import main as in_a_process_of_its_own

    raise SystemExit(in_a_process_of_its_own())
