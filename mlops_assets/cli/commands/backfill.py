"""`mlops backfill`: make past days, or walk forward over past as-of days."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from mlops_assets.cli.arguments import Once, add_days, number_of_days
from mlops_assets.cli.platform import (
    case_of,
    check_as_of,
    check_range,
    configured,
    pipeline,
    prepare,
    registry_exists,
)
from mlops_assets.core.keys import (
    FEATURE_VECTORS,
    FEATURES,
    INGEST,
    MODEL,
    MONITORING,
    PREDICTION_LOG,
    VERDICTS,
    WALK_FORWARD,
)

if TYPE_CHECKING:
    from mlops_assets.resources.environments import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    add_days(parser, "arrival day, or as-of day of the model group")
    parser.add_argument(
        "--group",
        choices=[INGEST, FEATURES, MONITORING, MODEL],
        action=Once,
        help="only this group (ingest and features); model: train as of each day, promote nothing, report",
    )
    parser.add_argument(
        "--step",
        type=number_of_days,
        action=Once,
        metavar="DAYS",
        help="of the model group: from one as-of day to the next (1)",
    )
    parser.set_defaults(usage=parser)


def run(options: argparse.Namespace) -> dict[str, Any] | None:
    """Run the backfill of the arrival days, or the walk-forward of the group model."""
    if options.group == MODEL:
        return walk_forward(options.first, options.last, options.step or 1, options.json)
    if options.step is not None:
        given = f"with --group {options.group}" if options.group else "without a group"
        options.usage.error(f"argument --step: only with --group model, not {given}")
    return backfill(options.first, options.last, options.group)


def backfill(first: str, last: str, group: str | None) -> dict[str, Any]:
    """Materialize a range of arrival days in one run, then bring the online state up to the lake.

    Returns the days, the groups and the rows of each dataset.
    """
    from dagster import AssetKey, DagsterInstance

    from mlops_assets.cli.instance import run_job
    from mlops_assets.pipeline import BACKFILL, DAILY, ONLINE
    from mlops_assets.resources.lake import day_range

    settings = configured()
    check_range(settings, first, last)
    prepare(settings)
    with DagsterInstance.get() as instance:
        if group == MONITORING:  # A report is about one day
            for day in day_range(first, last):
                run_job(DAILY, instance, day=day, select=_assets_of(MONITORING, DAILY))
        else:
            selected = _assets_of(group, BACKFILL) if group else None
            if group == INGEST:
                # Silence gives no verdict on a stopped event, so ingest of a served day needs its log.
                selected = [*(selected or ()), AssetKey(PREDICTION_LOG)]
            run_job(BACKFILL, instance, days=(first, last), select=selected)
        if group in (None, FEATURES):
            run_job(ONLINE, instance)
    case = case_of(settings)
    counted = (case.event.dataset, case.labels.dataset, VERDICTS, FEATURE_VECTORS)
    rows = {name: _rows(settings, name, first, last) for name in counted}
    return {"from": first, "to": last, "groups": [group] if group else [INGEST, FEATURES], "rows": rows}


def walk_forward(first: str, last: str, step: int, as_json: bool) -> dict[str, Any] | None:
    """Train and evaluate as of every `step` days, and report what each version would have caught afterwards.

    Nothing is promoted. Existing versions are not made again. Prints the tables, or returns them as data.
    """
    from dagster import DagsterInstance

    from feature_repo.lake.datasets import Lake
    from mlops_assets.cli.instance import give_way, run_job
    from mlops_assets.cli.output import padded
    from mlops_assets.cli.trainings import evaluate_as_of, one_at_a_time
    from mlops_assets.core.judging.walk_weeks import means, steps
    from mlops_assets.pipeline import WALK
    from mlops_assets.resources.lake import to_frame
    from mlops_assets.steps.model.training_rows import training_days
    from mlops_assets.steps.model.walk_report import walk_partition, walk_tables

    settings = configured()
    case, as_of_days = case_of(settings), steps(first, last, step)
    check_as_of(settings, first, as_of_days[-1])
    registry_exists(settings)
    lake = Lake(settings.lake_root)
    for as_of in as_of_days:
        training_days(case, lake, settings, as_of)
    prepare(settings)
    with one_at_a_time(settings.home), DagsterInstance.get() as instance:
        for number, as_of in enumerate(as_of_days, 1):
            # A walk-forward takes hours. A retraining that drift has asked for runs first.
            give_way(instance, MODEL)
            done = evaluate_as_of(settings, lake, instance, as_of)
            print(f"{number} of {len(as_of_days)}: as of {as_of}: {done}", file=sys.stderr, flush=True)
        result = run_job(WALK, instance, config={WALK_FORWARD: {"first": first, "last": last, "step": step}})
        (made,) = result.asset_materializations_for_node(WALK_FORWARD)
    report = str(made.metadata["report"].value)
    stored = lake.read(WALK_FORWARD, [walk_partition(first, last, step)])
    weeks = to_frame(stored)
    if as_json:
        tables = {"weeks": stored.to_pylist(), "means": means(weeks), "report": report}
        return {"from": first, "to": last, "step": step, **tables}
    for title, cells in walk_tables(case, weeks, settings.model.precision_k).items():
        print(f"{title}:\n{padded([[str(cell) for cell in line] for line in cells])}")
    print(f"report: {report}")
    return None


def _assets_of(group: str, job: str) -> list[Any]:
    definitions = pipeline()
    keys = definitions.resolve_job_def(job).asset_layer.executable_asset_keys
    specs = definitions.resolve_all_asset_specs()
    return [spec.key for spec in specs if spec.group_name == group and spec.key in keys]


def _rows(settings: Settings, dataset: str, first: str, last: str) -> int:
    from feature_repo.lake.datasets import Lake

    lake = Lake(settings.lake_root)
    return sum(m.rows for m in lake.manifests(dataset, lake.between(dataset, first, last)))
