"""`mlops train`: one training as of a day, with the gate's decision."""

from __future__ import annotations

import argparse
from typing import Any

from mlops_assets.cli.arguments import Once, day
from mlops_assets.cli.platform import case_of, check_as_of, configured, prepare, registry_exists


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument(
        "--as-of",
        type=day,
        required=True,
        action=Once,
        metavar="DAY",
        help="read what had arrived before this day",
    )
    parser.add_argument(
        "--again",
        action="store_true",
        help="even if a version of the same data, configuration and commit exists",
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """The version, and the verdict of the gate on it. A refusal is a result and no failure."""
    from dagster import DagsterInstance

    from feature_repo.lake.datasets import Lake
    from mlops_assets.cli.trainings import one_at_a_time, retrain, undecided
    from mlops_assets.core.keys import EVALUATION, TRAINING_SET
    from mlops_assets.resources.promotion import lifecycle_of
    from mlops_assets.steps.model.training_rows import training_days

    settings, as_of = configured(), options.as_of
    check_as_of(settings, as_of)
    registry_exists(settings)
    lake = Lake(settings.lake_root)
    training_days(case_of(settings), lake, settings, as_of)
    prepare(settings)
    with one_at_a_time(settings.home), DagsterInstance.get() as instance:
        assets = None if options.again else undecided(settings, lake, as_of)
        result = retrain(instance, as_of, assets)
        judged = lake.read(EVALUATION, [as_of]).to_pylist()[0]
    entries = lifecycle_of(settings).history.entries()
    decided = [row for row in entries if row["version"] == judged["version"]][-1]
    return {
        "as_of": as_of,
        "version": judged["version"],
        "champion_before": judged["champion"],
        "verdict": decided["kind"],
        "reasons": decided["reasons"],
        "training_rows": lake.manifests(TRAINING_SET, [as_of])[0].rows,
        "run_id": result.run_id,
    }
