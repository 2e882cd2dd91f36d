"""`mlops replay`: make logged decisions again, and compare."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlops_assets.cli.arguments import Once, day, number_of_decisions, text
from mlops_assets.cli.platform import CommandError, case_of, configured, registry_exists, untrained

if TYPE_CHECKING:
    from mlops_assets.core.use_case import UseCase
    from mlops_assets.steps.monitoring.replayed_decision import Replayed
    from serving.store.base import ServingLog

SHOWN = 20  # Decisions of a day or a sample that are not identical, in the text for a person


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument(
        "ids", nargs="*", type=text, metavar="ID", help="the prediction_id of an answer, one or more"
    )
    parser.add_argument(
        "--day", type=day, action=Once, metavar="DAY", help="every decision that arrived on this day"
    )
    parser.add_argument(
        "--sample",
        type=number_of_decisions,
        action=Once,
        metavar="N",
        help="so many decisions of the day, or of the whole log; the same ones each time",
    )
    parser.set_defaults(usage=parser)


def run(options: argparse.Namespace) -> None:
    """Print what became of each decision.

    `CommandError` where a decision differs or cannot be rebuilt, after everything is printed.
    """
    from feature_repo.lake.datasets import Lake
    from mlops_assets.resources.registry import registry_of
    from mlops_assets.steps.monitoring.replayed_decision import RESULTS, replay
    from serving.store.opening import serving_log

    by_name = options.day is None and options.sample is None
    if by_name != bool(options.ids):
        options.usage.error("give either ids, or --day, --sample or both")
    settings = configured()
    case, log = case_of(settings), serving_log(settings.serving_db)
    if not registry_exists(settings):  # MLflow would make a registry when it is asked
        raise CommandError(f"no version can make a decision again: {untrained(settings)}")
    ids = options.ids or _chosen(case, log, options)
    made = replay(case, Lake(settings.lake_root), log, settings, registry_of(settings), ids)
    results = Counter(one.result for one in made)
    counts = {"decisions": len(made), **{result.replace(" ", "_"): results[result] for result in RESULTS}}
    if options.json:
        print(json.dumps({**counts, "replayed": [_data(case, one, by_name) for one in made]}))
    else:
        _print(counts, made, by_name)
    others = [f"{results[result]} {result}" for result in RESULTS[1:] if results[result]]
    if others:
        raise CommandError(f"of {len(made)} decisions {', '.join(others)}")


def _chosen(case: UseCase, log: ServingLog, options: argparse.Namespace) -> list[str]:
    ids = log.decision_ids(case, options.day, options.sample)
    if not ids:
        raise CommandError(f"no decision is logged{f' for {options.day}' if options.day else ' yet'}")
    return ids


def _data(case: UseCase, one: Replayed, with_vector: bool) -> dict[str, Any]:
    """A replayed decision as JSON values. The answer is the rebuilt one."""
    data: dict[str, Any] = {"prediction_id": one.prediction_id, "result": one.result}
    data |= {"model_version": one.version, "why": one.why}
    data["differences"] = [vars(difference) for difference in one.differences]
    if one.outcome is not None:
        data |= {case.score: one.outcome.score, "decision": one.outcome.decision}
        data["reasons"] = [vars(reason) for reason in one.outcome.reasons]
    if with_vector:
        data["features"] = one.vector
    return data


def _print(counts: dict[str, int], made: Sequence[Replayed], by_name: bool) -> None:
    """The counts, then each decision that was named, or those that are not identical."""
    from mlops_assets.cli.output import readable
    from mlops_assets.steps.monitoring.replayed_decision import IDENTICAL

    shown = [one for one in made if by_name or one.result != IDENTICAL]
    print(readable({name.replace("_", " "): count for name, count in counts.items()}))
    for one in shown if by_name else shown[:SHOWN]:
        print(readable({one.prediction_id: _lines(one)}))
    if not by_name and len(shown) > SHOWN:
        print(f"and {len(shown) - SHOWN} more; --json has all of them")


def _lines(one: Replayed) -> dict[str, Any]:
    from mlops_assets.steps.monitoring.replayed_decision import shown

    lines: dict[str, Any] = {"result": one.result}
    if one.why:
        lines["why"] = one.why
    if one.version is not None:
        lines["version"] = one.version
    if one.outcome is not None:
        lines |= {"score": one.outcome.score, "decision": one.outcome.decision}
        lines["reasons"] = [shown(reason) for reason in one.outcome.reasons]
    if one.differences:
        lines["differences"] = [str(difference) for difference in one.differences]
    return lines
