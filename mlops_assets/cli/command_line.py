"""The `mlops` command: a thin layer over the assets.

The Dagster UI and `dagster asset materialize` can do everything that a command does. A command is a module of
`mlops_assets.cli.commands` with two functions: `arguments` declares the arguments of the command, `run` does
its work and returns the outcome. The module is imported when its command is given.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from mlops_assets.cli.arguments import Once, Parser
from mlops_assets.errors import is_interrupted, told

# A module has the name of its command, unless another module of the platform has that name.
MODULES = {"rollback": "roll_back", "rebuild-online": "rebuild_online"}
COMMANDS = {
    "demo": "the whole loop on a simulated bank: drift becomes a better model",
    "backfill": "materialize arrival days, or walk forward over as-of days of the model group",
    "train": "train, evaluate and, if the gate agrees, promote as of a day",
    "score": "score past days with a version into a Parquet file",
    "compare": "how two versions would have done on past days that neither was trained on",
    "promote": "make an evaluated version champion, on a person's word",
    "rollback": "return to the champion before; no machine promotes this one again",
    "history": "print every promotion, refusal and rollback, and verify that none was altered",
    "serve": "start the scoring service",
    "reproduce": "make a version again from what was recorded, and compare",
    "replay": "make logged decisions again from the log and the lake, and say where they differ",
    "rebuild-online": "make the online state again from the lake and the log, while the service goes on",
    "dev": "start Dagster, its daemon with it, and MLflow's UI on this platform",
    "status": "what is materialized, which version is champion, what the gate decided last",
    "doctor": "check that everything the platform needs is here, and look at the feeds",
}


def main(arguments: Sequence[str] | None = None, interrupted: Callable[[], bool] = bool) -> int:
    """Run one command and return its exit code.

    An error is one line on stderr and exit code 1. Wrong usage exits with 2, Ctrl-C with 130. With `--json`
    the last line on stdout is one object. `interrupted` says whether Ctrl-C has come, because a library may
    have turned the interrupt into an error.
    """
    try:
        options = parser().parse_args(arguments)
        if options.config:
            os.environ["MLOPS_CONFIG"] = str(Path(options.config).absolute())
        if options.debug:
            os.environ["MLOPS_TRACEBACK"] = "1"
        os.environ.setdefault("DO_NOT_TRACK", "true")  # MLflow does not take 1 for true
        os.environ.setdefault("FEAST_USAGE", "False")
        _print(options.run(options), options.json)
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
    """The parser of `mlops`, with the name and the one-line help of each command."""
    top = Parser(
        prog="mlops",
        description=(
            "Keeps a model good in production: features, training, gate, serving, drift and retraining."
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
    names = top.add_subparsers(metavar="COMMAND", parser_class=CommandParser)
    for name, text in COMMANDS.items():
        names.add_parser(name, help=text, description=text, module=MODULES.get(name, name))
    top.set_defaults(
        run=lambda options: top.error(
            f"COMMAND is missing: one of {', '.join(COMMANDS)}; `mlops COMMAND --help` says more"
        )
    )
    return top


class CommandParser(Parser):
    """The parser of one command. It imports the module of the command before it parses."""

    def __init__(self, *, module: str, **options: Any) -> None:
        super().__init__(**options)
        self._module: str | None = module
        self.add_argument("--json", action="store_true", help="print one JSON object as the last line")
        self.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="errors keep their traceback"
        )

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does, with the arguments that the module of the command declares."""
        if self._module is not None:
            command = import_module(f"mlops_assets.cli.commands.{self._module}")
            command.arguments(self)
            self.set_defaults(run=command.run)
            self._module = None
        return super().parse_known_args(args, namespace)


def _print(outcome: dict[str, Any] | None, as_json: bool) -> None:
    if outcome is None:
        return
    if as_json:
        print(json.dumps(outcome, default=str))
    else:
        from mlops_assets.cli.output import readable

        print(readable(outcome))


if __name__ == "__main__":
    from mlops_assets.__main__ import main as in_a_process_of_its_own

    raise SystemExit(in_a_process_of_its_own())
