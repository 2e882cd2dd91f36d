"""`mlops rollback`: return to the champion before this one."""

from __future__ import annotations

import argparse
from typing import Any

from mlops_assets.cli.arguments import add_reason
from mlops_assets.cli.platform import CommandError, configured, registry_exists, untrained


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    add_reason(parser)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """The decision, as the history has it. Model, features and policy return together, as one bundle."""
    from mlops_assets.cli.decision_report import now, person, reported
    from mlops_assets.resources.promotion import lifecycle_of

    settings = configured()
    if not registry_exists(settings):
        raise CommandError(f"there is no champion to roll back: {untrained(settings)}")
    lifecycle = lifecycle_of(settings)
    return reported(settings, lifecycle, lifecycle.roll_back(now(), person(), options.reason))
