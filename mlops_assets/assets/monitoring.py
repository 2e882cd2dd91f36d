"""The monitoring group: what was served, whether it was computed right, whether the world has moved, and what
it was worth in money.
"""

import json
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from dagster import (
    AssetCheckSpec,
    AssetDep,
    AssetExecutionContext,
    AssetsDefinition,
    DailyPartitionsDefinition,
    MaterializeResult,
    MetadataValue,
    asset,
)

from feature_repo.lake.datasets import Lake
from mlops_assets.assets.feature_parity import feature_parity_asset
from mlops_assets.core.data.verdict_history import latest_verdicts
from mlops_assets.core.judging.money import business_report as money_by_day
from mlops_assets.core.keys import (
    BUSINESS_REPORT,
    DATA_DRIFT,
    MONITORING,
    PREDICTION_DRIFT,
    PREDICTION_LOG,
    TRANSACTIONS,
    VERDICTS,
)
from mlops_assets.core.learning.splits import Split
from mlops_assets.core.use_case import UseCase
from mlops_assets.core.watching.drift import (
    DriftReport,
    DriftThresholds,
    data_drift,
    not_tested,
    prediction_drift,
)
from mlops_assets.graph.checks import Reported, content, markdown_table, reported, result, warning
from mlops_assets.graph.partitions import ONE_RUN, arrival_days, as_of_days, before_as_of, days_of
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import LakeResource, day_range, shift, to_frame, to_table, write_days
from mlops_assets.resources.registry import ModelRegistry
from mlops_assets.steps.drift_reference import why_not_compared
from serving.store.sqlite.decision_log import read_decisions

REPORTED_DAYS = 30  # served days that a business report looks back on


def monitoring_assets(case: UseCase, settings: Settings) -> list[AssetsDefinition]:
    days = arrival_days(settings.time.start, settings.time.end)
    return [
        _prediction_log(case, settings, days),
        feature_parity_asset(case, settings, days),
        _data_drift_report(case, settings, days),
        _prediction_drift_report(case, settings, days),
        _business_report(case, settings),
    ]


def _prediction_log(case: UseCase, settings: Settings, days: DailyPartitionsDefinition) -> AssetsDefinition:
    answered = warning(
        PREDICTION_LOG,
        "not_degraded",
        "No payment was decided on a feed that was staler than its declaration allows.",
        days,
    )

    @asset(
        name=PREDICTION_LOG,
        description=(
            "Every decision that the service made on the day: what it was asked, the vector it computed, the"
            " score, and by which version."
        ),
        group_name=MONITORING,
        owners=[case.owner],
        kinds={"sqlite", "parquet"},
        partitions_def=days,
        backfill_policy=ONE_RUN,
        check_specs=[answered],
    )
    def prediction_log(context: AssetExecutionContext, lake: LakeResource) -> Iterator[Reported]:
        made = days_of(context)
        tables = {day: read_decisions(settings.serving_db, day) for day in made}
        written = write_days(
            lake.open(), PREDICTION_LOG, pa.concat_tables(tables.values()), "created_timestamp", made
        )
        told, checked = {}, {}
        for day, table in tables.items():
            oldest = oldest_events(table.column("freshness").to_pylist())
            ages = [(view, "none" if hours is None else hours) for view, hours in oldest.items()]
            degraded = int(pc.sum(table.column("degraded")).as_py() or 0)
            told[day] = {
                "decisions": {
                    entry["values"]: entry["counts"]
                    for entry in pc.value_counts(table.column("decision")).to_pylist()
                },
                "versions": ", ".join(sorted(set(table.column("model_version").to_pylist()))) or "none",
                "freshness": markdown_table(["view", "greatest age of its newest event, hours"], ages),
            }
            checked[day] = [
                result(
                    answered,
                    degraded == 0,
                    {"degraded": degraded, "requests": table.num_rows, "oldest, hours": str(oldest)},
                )
            ]
        yield from reported(context, PREDICTION_LOG, written.values(), told, checked)

    return prediction_log


def _data_drift_report(
    case: UseCase, settings: Settings, days: DailyPartitionsDefinition
) -> AssetsDefinition:
    said = "Enough was served on the day to say anything; what cannot be tested is not called quiet."
    enough = warning(DATA_DRIFT, "enough_predictions", said, days)
    drift = warning(
        DATA_DRIFT,
        "no_data_drift",
        "The served features look like those of the days after the training.",
        days,
    )

    @asset(
        name=DATA_DRIFT,
        description=(
            "The day's served features against those of the days after the training of the version that "
            "served most (Evidently, population stability index)."
        ),
        group_name=MONITORING,
        owners=[case.owner],
        kinds={"evidently"},
        partitions_def=days,
        deps=[PREDICTION_LOG, TRANSACTIONS],
        check_specs=[enough, drift],
    )
    def data_drift_report(
        context: AssetExecutionContext, lake: LakeResource, registry: ModelRegistry
    ) -> MaterializeResult:
        day = context.partition_key
        columns = list(case.drift_columns)
        current, version = _served(lake.open(), day, columns)
        reference = to_frame(registry.reference(registry.version(version))) if version else current
        report = data_drift(reference, current, columns, settings.drift)
        return _drift_result(lake.open(), DATA_DRIFT, day, version, report, settings.home, enough, drift)

    return data_drift_report


def _prediction_drift_report(
    case: UseCase, settings: Settings, days: DailyPartitionsDefinition
) -> AssetsDefinition:
    enough = warning(
        PREDICTION_DRIFT,
        "enough_predictions",
        "Enough was served, by the fit whose scores the reference has.",
        days,
    )
    drift = warning(
        PREDICTION_DRIFT,
        "no_prediction_drift",
        "The scores are distributed as on the days after the training.",
        days,
    )

    @asset(
        name=PREDICTION_DRIFT,
        description="The day's scores against those that the same version gives the days after its training.",
        group_name=MONITORING,
        owners=[case.owner],
        kinds={"evidently"},
        partitions_def=days,
        deps=[PREDICTION_LOG, TRANSACTIONS],
        check_specs=[enough, drift],
    )
    def prediction_drift_report(
        context: AssetExecutionContext, lake: LakeResource, registry: ModelRegistry
    ) -> MaterializeResult:
        day = context.partition_key
        version, report = score_drift(lake.open(), registry, day, settings.drift)
        return _drift_result(
            lake.open(), PREDICTION_DRIFT, day, version, report, settings.home, enough, drift
        )

    return prediction_drift_report


def _business_report(case: UseCase, settings: Settings) -> AssetsDefinition:
    days = as_of_days(settings.time.start, settings.time.end)
    claim = (
        "At least the configured share of fraud money was stopped on the newest mature day; no verdict, no"
        " claim."
    )
    caught = warning(BUSINESS_REPORT, "fraud_caught", claim, days)
    reach = REPORTED_DAYS + settings.verdicts.maturity_days + 1
    inputs = [AssetDep(name, partition_mapping=before_as_of(reach)) for name in (PREDICTION_LOG, VERDICTS)]

    @asset(
        name=BUSINESS_REPORT,
        description=(
            "Fraud caught and missed in money on served days that had matured by then; what has no verdict is"
            " unknown."
        ),
        group_name=MONITORING,
        owners=[case.owner],
        kinds={"parquet"},
        partitions_def=days,
        deps=inputs,
        check_specs=[caught],
    )
    def business_report(context: AssetExecutionContext, lake: LakeResource) -> MaterializeResult:
        as_of = context.partition_key
        opened = lake.open()
        by_day = money(opened, settings, as_of)
        written = opened.write(BUSINESS_REPORT, as_of, to_table(by_day), validated=True)
        newest = by_day.iloc[-1] if len(by_day) else None
        share = None if newest is None or pd.isna(newest["caught_share"]) else float(newest["caught_share"])
        passed = share is None or share >= settings.business.min_caught_share
        columns = [
            "day",
            "transactions",
            "fraud_money",
            "caught_money",
            "missed_money",
            "caught_share",
            "reviews",
            "not_reviewed",
            "blocked",
            "unknown",
        ]
        shown = [tuple(row) for row in by_day[columns].tail(14).itertuples(index=False)]
        return MaterializeResult(
            metadata={**content([written]), "money": markdown_table(columns, shown)},
            check_results=[
                result(
                    caught,
                    passed,
                    {
                        "newest mature day": str(newest["day"]) if newest is not None else "none",
                        "caught_share": share,
                    },
                )
            ],
        )

    return business_report


def oldest_events(freshness: Sequence[str | None]) -> dict[str, float | None]:
    """For each view, the greatest age in hours that its newest event had when a payment was decided; None
    where there was none at some time.
    """
    oldest: dict[str, float | None] = {}
    for text in set(freshness) - {None}:
        for view, seconds in json.loads(str(text)).items():
            before = oldest.get(view, 0.0)
            oldest[view] = None if seconds is None or before is None else max(before, seconds / 3_600)
    return oldest


def money(lake: Lake, settings: Settings, as_of: str) -> pd.DataFrame:
    """The business report by served day, for the days that had matured before `as_of`."""
    split = Split(date.fromisoformat(as_of), settings.verdicts.maturity_days, 1, REPORTED_DAYS)
    first = max(split.train_first.isoformat(), settings.time.start.isoformat())
    made = lake.between(PREDICTION_LOG, first, shift(as_of, -1))
    served = [d for d in made if lake.manifests(PREDICTION_LOG, [d])[0].rows]
    days = served or made[-1:] or day_range(shift(as_of, -1), shift(as_of, -1))
    log = to_frame(
        lake.read(
            PREDICTION_LOG,
            days,
            ["prediction_id", "kind", "event_timestamp", "amount", "decision", "fraud_score"],
        )
    )
    log = log[
        (log["kind"] == "transaction")
        & (log["event_timestamp"] < pd.Timestamp(shift(split.last_mature_day.isoformat(), 1), tz="UTC"))
    ]
    verdicts = to_frame(lake.read(VERDICTS, lake.between(VERDICTS, first, shift(as_of, -1))))
    known = latest_verdicts(verdicts, pd.Timestamp(as_of, tz="UTC"))
    return money_by_day(
        log.rename(columns={"prediction_id": "transaction_id"}), known, settings.costs.reviews_per_day
    )


def _served(lake: Lake, day: str, columns: Sequence[str]) -> tuple[pd.DataFrame, str | None]:
    """What was served on the day, with the `model_version` of each row, and the version that served most.

    Nothing and no version where nothing was served, or where the day's transactions did not pass validation:
    garbage is no drift.
    """
    log = lake.read(PREDICTION_LOG, [day], ["features", "fraud_score", "model_version"])
    feed = lake.manifest(TRANSACTIONS, day)
    if not log.num_rows or (feed is not None and not feed.validated):
        return pd.DataFrame({name: pd.Series([], dtype="float64") for name in columns}), None
    vectors = [json.loads(text) for text in log.column("features").to_pylist()]
    scores = log.column("fraud_score").to_pylist()
    served = pd.DataFrame(
        {
            name: pd.Series(
                scores if name == "fraud_score" else [v.get(name) for v in vectors], dtype="float64"
            )
            for name in columns
        },
    ).assign(model_version=log.column("model_version").to_pylist())
    most, *_ = served["model_version"].mode()
    return served, str(most)


def score_drift(
    lake: Lake, registry: ModelRegistry, day: str, thresholds: DriftThresholds
) -> tuple[str | None, DriftReport]:
    """The version that served most of the day, and its scores against its reference.

    One fit gave both, or it is not tested.
    """
    served, number = _served(lake, day, ["fraud_score"])
    if number is None:
        return None, prediction_drift(served["fraud_score"], served["fraud_score"], thresholds)
    version = registry.version(number)
    # On the day of a swap, what the other version gave is no drift of this one.
    scores = served.loc[served["model_version"] == number, "fraud_score"]
    reference = registry.reference(version).column("fraud_score").to_pandas()
    if why := why_not_compared(number, registry.release(version)):
        return number, not_tested(why, len(reference), len(scores))
    return number, prediction_drift(reference, scores, thresholds)


def _drift_result(
    lake: Lake,
    name: str,
    day: str,
    version: str | None,
    report: DriftReport,
    home: Path,
    enough: AssetCheckSpec,
    drift: AssetCheckSpec,
) -> MaterializeResult:
    """Store the numbers, put the page where the metadata links to it, and say which columns moved."""
    columns = sorted(report.columns.items(), key=lambda item: -item[1])
    table = pa.table(
        {
            "column": pa.array([c for c, _ in columns], pa.string()),
            "value": pa.array([v for _, v in columns], pa.float64()),
        }
    )
    written = lake.write(
        name,
        day,
        table,
        validated=True,
        metadata={"drifted": report.drifted, "tested": report.tested, "note": report.note},
    )
    metadata: dict[str, Any] = {
        **content([written]),
        "columns": markdown_table(["column", "PSI"], columns),
        "note": report.note or "none",
    }
    metadata["version"] = version or "none"
    if report.html:
        page = home / "reports" / name / f"{day}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(report.html, encoding="utf-8")
        metadata["report"] = MetadataValue.path(str(page))
    moved = ", ".join(f"{c} {v:.2f}" for c, v in columns[:5])
    # A day that could not be tested has its own failed check, and asks for no retraining: nothing is known of
    # it.
    return MaterializeResult(
        metadata=metadata,
        check_results=[
            result(
                enough, report.tested and not report.untested, {"reason": report.note or "enough", "day": day}
            ),
            result(
                drift,
                not report.drifted,
                {"day": day, "share of drifted columns": report.share, "largest": moved or "none"},
            ),
        ],
    )
