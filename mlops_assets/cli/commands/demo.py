"""`mlops demo`: play the whole loop on a simulated bank."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mlops_assets.cli.arguments import Once


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--home",
        type=Path,
        default=Path("var/demo"),
        action=Once,
        help="where it keeps its state (var/demo); emptied first",
    )


def run(options: argparse.Namespace) -> dict[str, Any] | None:
    """The demo's summary, where data is asked for. The story itself goes to stderr."""
    from mlops_assets.cli.demo.story import run_demo

    summary = run_demo(options.home)
    return summary if options.json else None
