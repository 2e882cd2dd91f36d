"""`mlops compare`: two versions on the same past days."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from mlops_assets.cli.arguments import add_days, version
from mlops_assets.cli.platform import (
    CommandError,
    case_of,
    check_range,
    configured,
    registry_exists,
    untrained,
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("version", type=version, metavar="VERSION", help="a registered version")
    parser.add_argument("other", type=version, metavar="OTHER", help="the version that it is compared with")
    add_days(parser, "arrival day")


def run(options: argparse.Namespace) -> dict[str, Any] | None:
    """The quality of both versions, the difference with its interval, and what each policy would have caught.

    Prints a table, or returns the numbers as data.
    """
    from feature_repo.lake.datasets import Lake
    from mlops_assets.resources.registry import registry_of
    from mlops_assets.steps.model.past_scores import compare_days

    settings, one, other = configured(), options.version, options.other
    check_range(settings, options.first, options.last)
    if one == other:
        raise CommandError(f"{one} and {other} are the same version")
    if not registry_exists(settings):  # MLflow would make a registry when it is asked
        raise CommandError(f"there is no version {one}: {untrained(settings)}")
    registry, case = registry_of(settings), case_of(settings)
    found = compare_days(
        case,
        Lake(settings.lake_root),
        settings,
        registry,
        registry.version(one),
        registry.version(other),
        options.first,
        options.last,
    )
    outcome = {"from": options.first, "to": options.last, **found.to_dict(case)}
    if options.json:
        return outcome
    print(_side_by_side(outcome), end="")
    return None


def _side_by_side(compared: Mapping[str, Any]) -> str:
    from mlops_assets.cli.output import padded, readable
    from mlops_assets.steps.model.walk_report import shown

    sides, gap = dict(compared["versions"]), compared["difference"]
    for number, side in sides.items():
        figures = {
            f"{policy} {name}": value
            for policy, caught in side["policies"].items()
            for name, value in caught.items()
        }
        sides[number] = {name: value for name, value in (side | figures).items() if name != "policies"}
    one, other = sides
    lines = [
        [name.replace("_", " "), shown(value), shown(sides[other][name])]
        for name, value in sides[one].items()
    ]
    rows = {name: value for name, value in compared.items() if name not in ("versions", "difference")}
    resampled = f"{gap[gap['resampled']]:,} {gap['resampled']}"
    interval = (
        f"{shown(gap['low'])} to {shown(gap['high'])} at {gap['confidence']:.0%} confidence, over resamples"
        f" of {resampled}"
    )
    return (
        f"{readable(rows)}\n{padded([['measure', f'version {one}', f'version {other}'], *lines])}"
        f"average precision, {one} minus {other}: {shown(gap['average_precision'])} ({interval})\n"
    )
