"""`mlops promote`: a person promotes or refuses a version."""

from __future__ import annotations

import argparse
from typing import Any

from mlops_assets.cli.arguments import add_reason, version
from mlops_assets.cli.platform import CommandError, case_of, configured, registry_exists, untrained


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument(
        "version", type=version, metavar="VERSION", help="a registered version that was evaluated"
    )
    parser.add_argument(
        "--refuse", action="store_true", help="refuse it instead: no machine promotes it after that"
    )
    add_reason(parser)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """The decision, as the history has it.

    A person may overrule the gate's judgement, and nothing that would break serving or trust.
    """
    from feature_repo.lake.datasets import Lake
    from mlops_assets.cli.decision_report import now, person, reported
    from mlops_assets.resources.promotion import lifecycle_of

    settings, number = configured(), options.version
    lifecycle = lifecycle_of(settings)
    if not registry_exists(settings):
        raise CommandError(f"there is no version {number}: {untrained(settings)}")
    if options.refuse:
        return reported(settings, lifecycle, lifecycle.decline(number, now(), person(), options.reason))
    from mlops_assets.steps.model.judge import standing_against

    lake, chosen = Lake(settings.lake_root), lifecycle.registry.version(number)
    barred = standing_against(case_of(settings), settings, lake, lifecycle.registry, chosen)
    return reported(settings, lifecycle, lifecycle.approve(number, now(), person(), options.reason, barred))
