"""`mlops demo`: play the whole loop on a simulated bank."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mlops_assets.cli.arguments import Once


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument(
        "--home",
        type=Path,
        default=Path("var/demo"),
        action=Once,
        help="the folder of its state (var/demo), which is emptied first",
    )


def run(options: argparse.Namespace) -> dict[str, Any] | None:
    """Play the demo. Returns its summary where data is asked for. The story is printed on stderr."""
    from mlops_assets.cli.demo.story import run_demo

    summary = run_demo(options.home)
    return summary if options.json else None
