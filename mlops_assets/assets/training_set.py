"""The training set as of a day: mature transactions with their latest verdict, in a training fold and a
holdout.
"""

from collections.abc import Sequence

import pandas as pd
from dagster import AssetDep, AssetExecutionContext, AssetsDefinition, MaterializeResult, asset

from feature_repo.lake.datasets import Lake, MissingPartitions, digest_of, encode
from mlops_assets.core.keys import (
    DATA_DRIFT,
    FEATURE_PARITY,
    FEATURE_VECTORS,
    MODEL,
    PREDICTION_DRIFT,
    TRAINING_SET,
    TRANSACTIONS,
    VERDICTS,
)
from mlops_assets.core.learning.eligible_rows import assemble
from mlops_assets.core.learning.splits import NothingToLearn
from mlops_assets.core.use_case import UseCase
from mlops_assets.graph.checks import blocking, content, markdown_table, result
from mlops_assets.graph.partitions import as_of_days, before_as_of
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.feature_store import FeatureStoreResource
from mlops_assets.resources.lake import LakeResource, day_range, read_validated, shift, to_frame, to_table
from mlops_assets.steps.judge import split_of


def training_set_asset(case: UseCase, settings: Settings) -> AssetsDefinition:
    days = as_of_days(settings.time.start, settings.time.end)
    enough = blocking(
        TRAINING_SET,
        "enough_positives",
        "Both folds hold enough frauds to learn from and to measure on.",
        days,
    )
    reach = settings.model.train_days + settings.verdicts.maturity_days + 1
    inputs = [AssetDep(name, partition_mapping=before_as_of(reach)) for name in (FEATURE_VECTORS, VERDICTS)]
    # Dependencies without arguments: a retraining stands downstream of the reports that asked for it.
    lineage = [
        AssetDep(name, partition_mapping=before_as_of(1))
        for name in (DATA_DRIFT, PREDICTION_DRIFT, FEATURE_PARITY)
    ]

    @asset(
        name=TRAINING_SET,
        description=(
            "Mature transactions with their latest verdict as of the day, in a training fold and a holdout of"
            " the last mature days."
        ),
        group_name=MODEL,
        pool=MODEL,
        owners=[case.owner],
        kinds={"parquet"},
        partitions_def=days,
        deps=[*inputs, *lineage],
        check_specs=[enough],
    )
    def training_set(
        context: AssetExecutionContext, lake: LakeResource, feature_store: FeatureStoreResource
    ) -> MaterializeResult:
        as_of = context.partition_key
        opened = lake.open()
        features = feature_store.plan(case.feature_service).features
        rows = training_rows(opened, settings, as_of, features)
        positives = {
            fold: int(rows.loc[rows["fold"] == fold, "is_fraud"].sum()) for fold in ("train", "holdout")
        }
        passed = min(positives.values()) >= settings.gate.min_positives
        written = opened.write(TRAINING_SET, as_of, to_table(rows), validated=passed)
        per_day = rows.groupby(rows["event_timestamp"].dt.strftime("%Y-%m-%d"))["is_fraud"].agg(
            ["size", "sum"]
        )
        return MaterializeResult(
            metadata={
                **content([written]),
                "train rows": int((rows["fold"] == "train").sum()),
                "days left out": (
                    ", ".join(
                        broken_days(
                            opened, split_of(settings, as_of).train_first.isoformat(), shift(as_of, -1)
                        )
                    )
                    or "none"
                ),
                "holdout rows": int((rows["fold"] == "holdout").sum()),
                "by day": markdown_table(
                    ["day", "transactions", "frauds"],
                    [(day, int(n), int(f)) for day, (n, f) in per_day.tail(14).iterrows()],
                ),
            },
            check_results=[result(enough, passed, {**positives, "required": settings.gate.min_positives})],
        )

    return training_set


def training_rows(lake: Lake, settings: Settings, as_of: str, features: tuple[str, ...]) -> pd.DataFrame:
    """Read what had arrived before `as_of`, the days of `training_days`, and assemble it."""
    split, days = split_of(settings, as_of), training_days(lake, settings, as_of)
    columns = [
        "transaction_id",
        "event_timestamp",
        "created_timestamp",
        "customer_id",
        "merchant_id",
        "amount",
    ]
    vectors = read_validated(lake, FEATURE_VECTORS, days, list(dict.fromkeys([*columns, *features])))
    verdicts = read_validated(lake, VERDICTS, days)
    return assemble(to_frame(vectors), to_frame(verdicts), split, features)


def training_days(lake: Lake, settings: Settings, as_of: str) -> list[str]:
    """The arrival days that are read as of `as_of`.

    `NothingToLearn` where no training day is among them, `MissingDays` where one was never made.

    A day whose feed did not pass validation is left out, as its features and verdicts were not made: it
    freezes no training.
    """
    split, last = split_of(settings, as_of), shift(as_of, -1)
    if not split.has_training_days:
        there = lake.between(TRANSACTIONS, settings.time.start.isoformat(), last)
        raise NothingToLearn(split, settings.time.start, there, settings.time.end)
    first = split.train_first.isoformat()
    broken = set(broken_days(lake, first, last))
    days = [day for day in day_range(first, last) if day not in broken]
    for dataset in (FEATURE_VECTORS, VERDICTS):
        if missing := sorted(set(days) - set(lake.between(dataset, first, last))):
            raise MissingDays(dataset, missing, as_of, first)
    return days


class MissingDays(MissingPartitions):
    """Arrival days that a training reads were never materialized; the message has the command that brings
    them.
    """

    def __init__(self, dataset: str, days: Sequence[str], as_of: str, first: str) -> None:
        super().__init__(dataset, days)
        self.args = (
            (
                f"as of {as_of} the arrival days {first} to {shift(as_of, -1)} are read, and {self}; "
                f"`mlops backfill --from {min(days)} --to {max(days)}` brings what is missing"
            ),
        )


def broken_days(lake: Lake, first: str, last: str) -> list[str]:
    """The days whose transactions are there and did not pass validation."""
    return sorted(
        set(lake.between(TRANSACTIONS, first, last))
        - set(lake.between(TRANSACTIONS, first, last, validated=True))
    )


def training_set_digest(lake: Lake, settings: Settings, as_of: str, features: tuple[str, ...]) -> str:
    """The digest that the training set of the day has on the lake as it stands."""
    return digest_of([encode(to_table(training_rows(lake, settings, as_of, features)))[1]])
