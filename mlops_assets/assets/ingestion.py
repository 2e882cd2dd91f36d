"""The ingest group: raw rows as they came, the ones that hold, the ones in quarantine with a reason each, and verdicts.

A day that the service served comes from its own log; any other day from the source. Never from both.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import date
from statistics import median
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from dagster import (
    AssetCheckResult,
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    AssetSpec,
    MaterializeResult,
    asset,
    multi_asset,
)

from feature_repo.engine.lake import Lake, Manifest
from feature_repo.engine.parallel import in_order
from mlops_assets.checks import blocking, content, markdown_table, result, warning
from mlops_assets.core.source import Source, by_day
from mlops_assets.core.use_case import Feed, UseCase
from mlops_assets.core.validation import REASON, Validation, validate
from mlops_assets.core.verdicts import verdicts_known
from mlops_assets.keys import (
    INGEST,
    LABELS,
    PREDICTION_LOG,
    QUARANTINED_LABELS,
    QUARANTINED_TRANSACTIONS,
    RAW_LABELS,
    RAW_TRANSACTIONS,
    TRANSACTIONS,
    VERDICTS,
)
from mlops_assets.partitions import ONE_RUN, arrival_days, days_of
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import LakeResource, NotValidated, shift, to_frame, to_table, write_days
from serving.contract.log import read_decisions, read_labels, served_days

REASONS_SHOWN = 10
DAYS_TO_COMPARE = 3  # with fewer days before it, nothing is usual yet
TIME = pa.timestamp("us", tz="UTC")
VERDICT_COLUMNS = pa.schema(
    [
        ("transaction_id", pa.string()),
        ("customer_id", pa.string()),
        ("merchant_id", pa.string()),
        ("transaction_timestamp", TIME),
        ("event_timestamp", TIME),
        ("created_timestamp", TIME),
        ("is_fraud", pa.bool_()),
        ("amount", pa.float64()),
    ]
)
LATENESS_DAYS = 7  # how late a row may come and still have a verdict pending
SUBJECT = ["transaction_id", "event_timestamp", "created_timestamp", "customer_id", "merchant_id", "amount"]
LABEL = ["transaction_id", "is_fraud", "label_timestamp"]
ORPHAN = "transaction_id: unknown"


def ingestion_assets(case: UseCase, settings: Settings, source: Source) -> list[AssetsDefinition]:
    return [
        _raw(case, settings, RAW_TRANSACTIONS, case.transactions, source.transactions, "Card transactions as they were delivered, before any check."),
        _raw(case, settings, RAW_LABELS, case.labels, source.labels, "Labels as they were reported: chargebacks and the outcomes of investigations."),
        _validated(case, settings, TRANSACTIONS, QUARANTINED_TRANSACTIONS, RAW_TRANSACTIONS, case.transactions),
        _validated(case, settings, LABELS, QUARANTINED_LABELS, RAW_LABELS, case.labels),
        _verdicts(case, settings),
    ]


def _raw(case: UseCase, settings: Settings, name: str, feed: Feed, deliver: Callable[[date, date], pa.Table], description: str) -> AssetsDefinition:
    @asset(
        name=name,
        description=description,
        group_name=INGEST,
        owners=[case.owner],
        kinds={"source", "parquet"},
        partitions_def=arrival_days(settings.time.start, settings.time.end),
        backfill_policy=ONE_RUN,
    )
    def raw(context: AssetExecutionContext, lake: LakeResource) -> MaterializeResult:
        made = days_of(context)
        tables = delivered(made, settings, name, feed, deliver)
        opened = lake.open()
        written = [opened.write(name, day, tables[day]) for day in made]
        silent = [m.partition for m in written if not m.rows]
        return MaterializeResult(metadata={**content(written), "days without rows": ", ".join(silent[:10]) or "none"})

    return raw


def _validated(case: UseCase, settings: Settings, name: str, quarantine: str, raw_name: str, feed: Feed) -> AssetsDefinition:
    schema = blocking(name, "schema", f"Not more than {settings.ingest.max_quarantined_share:.0%} of a day's rows had to go to quarantine.")
    counts = blocking(name, "counts", "Received = accepted + duplicate + quarantined, for every day.")
    volume = warning(name, "volume", "Each day has rows, and about as many as the days before it.")
    sources = [RAW_TRANSACTIONS] if name == TRANSACTIONS else [raw_name, TRANSACTIONS]
    common: dict[str, Any] = {"group_name": INGEST, "owners": [case.owner], "kinds": {"pandera", "parquet"}}

    @multi_asset(
        name=f"validated_{name}",
        specs=[
            AssetSpec(name, deps=sources, description=f"The {name} that hold: typed, in range, each once. What is downstream reads these.", **common),
            AssetSpec(quarantine, deps=sources, description=f"The {name} that do not hold, as they came, each with its reasons.", **common),
        ],
        partitions_def=arrival_days(settings.time.start, settings.time.end),
        backfill_policy=ONE_RUN,
        check_specs=[schema, counts, volume],
    )
    def validated(context: AssetExecutionContext, lake: LakeResource) -> tuple[MaterializeResult, MaterializeResult]:
        opened = lake.open()
        good: list[Manifest] = []
        bad: list[Manifest] = []
        outcomes: dict[str, Validation] = {}
        made = days_of(context)
        arrivals = Arrivals(opened, shift(made[0], -settings.ingest.horizon_days), shift(made[0], -1) if name == TRANSACTIONS else made[-1])
        for day in made:
            outcome = validated_day(opened, settings, name, raw_name, feed, day, arrivals)
            if name == TRANSACTIONS:
                arrivals.add(day, outcome.accepted["transaction_id"])
            outcomes[day] = outcome
            # A label of a transaction that the platform never saw says nothing about the feed: the platform is younger than the bank.
            broken = int((outcome.quarantined[REASON] != ORPHAN).sum())
            sound = broken <= settings.ingest.max_quarantined_share * outcome.received
            text = pa.schema([(column, pa.string()) for column in outcome.quarantined.columns])
            # The quarantine comes first: a day is never readable as accepted before what was left out of it is on record.
            bad.append(opened.write(quarantine, day, to_table(outcome.quarantined, text), metadata=outcome.counts))
            good.append(opened.write(name, day, to_table(outcome.accepted, feed.columns), validated=sound, metadata=outcome.counts))
        unsafe = [m.partition for m in good if not m.validated]
        odd = odd_volumes(opened, settings, name, good)
        totals = {name: sum(o.counts[name] for o in outcomes.values()) for name in ("received", "accepted", "duplicate", "quarantined")}
        reasons = (
            pd.Series([r for o in outcomes.values() for r, n in o.reasons.items() for _ in range(n)], dtype=object).value_counts().head(REASONS_SHOWN)
        )
        examples = {reason: whole for o in reversed(outcomes.values()) for reason, whole in o.examples.items()}
        shown = markdown_table(["reason", "rows", "such as"], [(str(r), int(n), examples[str(r)]) for r, n in reasons.items()])
        checks: list[AssetCheckResult] = [
            result(schema, not unsafe, {"days above the limit": ", ".join(unsafe) or "none", **totals, "reasons": shown}),
            result(counts, totals["received"] == totals["accepted"] + totals["duplicate"] + totals["quarantined"], totals),
            result(volume, not odd, {"odd days": "; ".join(odd[:10]) or "none"}),
        ]
        return (
            MaterializeResult(asset_key=AssetKey(name), metadata={**content(good), **totals}, check_results=checks),
            MaterializeResult(asset_key=AssetKey(quarantine), metadata={**content(bad), "reasons": shown}),
        )

    return validated


def _verdicts(case: UseCase, settings: Settings) -> AssetsDefinition:
    @asset(
        name=VERDICTS,
        description="What became known on the day: a label, or silence until maturity. Blocked and never investigated is never known.",
        group_name=INGEST,
        owners=[case.owner],
        kinds={"parquet"},
        partitions_def=arrival_days(settings.time.start, settings.time.end),
        backfill_policy=ONE_RUN,
        deps=[TRANSACTIONS, LABELS, PREDICTION_LOG],
    )
    def verdicts(context: AssetExecutionContext, lake: LakeResource) -> MaterializeResult:
        made = days_of(context)
        opened = lake.open()
        known = known_verdicts(opened, settings, made)
        written = write_days(opened, VERDICTS, to_table(known, VERDICT_COLUMNS), "created_timestamp", made)
        return MaterializeResult(metadata={**content(written.values()), "frauds": int(known["is_fraud"].sum())})

    return verdicts


def delivered(days: Sequence[str], settings: Settings, name: str, feed: Feed, deliver: Callable[[date, date], pa.Table]) -> dict[str, pa.Table]:
    """One raw table a day: from the service's log where it served that day, from the source otherwise."""
    what: Literal["transactions", "labels"] = "transactions" if name == RAW_TRANSACTIONS else "labels"
    read = read_decisions if name == RAW_TRANSACTIONS else read_labels
    served = served_days(settings.serving_db, what, days)
    tables = {day: _from_log(read(settings.serving_db, day), feed) for day in served}
    if others := sorted(set(days) - served):
        first, last = date.fromisoformat(others[0]), date.fromisoformat(others[-1])
        tables |= {day: table for day, table in by_day(deliver(first, last), first, last).items() if day not in served}
    return tables


class Arrivals:
    """The ids that were accepted on each day, read once for a whole range of days."""

    def __init__(self, lake: Lake, first: str, last: str) -> None:
        days = lake.between(TRANSACTIONS, first, last)
        self._ids = dict(zip(days, in_order(lambda day: lake.read(TRANSACTIONS, [day], ["transaction_id"]).column(0), days), strict=True))

    def add(self, day: str, ids: Iterable[str]) -> None:
        self._ids[day] = pa.chunked_array([pa.array(ids, pa.string())])

    def among(self, ids: pa.ChunkedArray, first: str, last: str) -> set[str]:
        """Those of `ids` that were accepted from `first` to `last`, both included."""
        accepted = [chunk for day, column in self._ids.items() if first <= day <= last for chunk in column.chunks]
        every = pa.chunked_array(accepted, pa.string())
        return set(every.filter(pc.is_in(every, value_set=ids.drop_null())).to_pylist())


def validated_day(lake: Lake, settings: Settings, name: str, raw_name: str, feed: Feed, day: str, arrivals: Arrivals) -> Validation:
    """Sort the raw rows of a day; ids are compared with the days before it, and labels with the transactions that they can be about."""
    table = lake.read(raw_name, [day])
    raw, ids = to_frame(table), table.column("transaction_id")
    schema = feed.schema(date.fromisoformat(day))
    if name == TRANSACTIONS:
        known = arrivals.among(ids, shift(day, -settings.ingest.horizon_days), shift(day, -1))
        return validate(raw, schema, key=feed.key, order=feed.order, prefer=feed.prefer, known=known)
    about = arrivals.among(ids, shift(day, -settings.ingest.horizon_days), day)
    return validate(raw, schema, key=feed.key, order=feed.order, prefer=feed.prefer, parents={"transaction_id": about})


def odd_volumes(lake: Lake, settings: Settings, name: str, written: Sequence[Manifest]) -> list[str]:
    """Days without rows, or with many times the median of the days before them; a sentence each."""
    odd = []
    window = lake.between(name, shift(written[0].partition, -settings.ingest.volume_window_days), written[-1].partition)
    known = {m.partition: m.rows for m in lake.manifests(name, window)}
    for manifest in written:
        first = shift(manifest.partition, -settings.ingest.volume_window_days)
        before = [rows for day, rows in known.items() if first <= day < manifest.partition]
        usual = median(before) if len(before) >= DAYS_TO_COMPARE else 0
        expected = any(before) or (name == TRANSACTIONS and not before)  # labels begin only when the first frauds have been reported
        if not manifest.rows and expected:
            odd.append(f"{manifest.partition}: no rows")
        elif usual and not settings.ingest.min_volume_ratio * usual <= manifest.rows <= settings.ingest.max_volume_ratio * usual:
            odd.append(f"{manifest.partition}: {manifest.rows:,} rows where {usual:,.0f} are usual")
    return odd


def known_verdicts(lake: Lake, settings: Settings, days: Sequence[str]) -> pd.DataFrame:
    """The verdicts that became known on `days`, from validated transactions and labels, less what was blocked and not investigated."""
    first = shift(days[0], -settings.ingest.horizon_days)
    start, end = _midnight(days[0]), _midnight(shift(days[-1], 1))
    labels = _validated_rows(lake, LABELS, first, days[-1], LABEL)
    new = labels.filter(_within(labels.column("label_timestamp"), start, end)).column("transaction_id")
    subjects = _subjects(lake, settings, first, days, new)
    about_them = labels.filter(pc.is_in(labels.column("transaction_id"), value_set=subjects.column("transaction_id")))
    blocked = blocked_ids(lake, settings, first, days[-1])
    return verdicts_known(to_frame(subjects), to_frame(about_them), blocked, settings.maturity, start, end)


def _subjects(lake: Lake, settings: Settings, first: str, days: Sequence[str], labelled: pa.ChunkedArray) -> pa.Table:
    """The transactions since `first` that can get a verdict on `days`: they mature then, or the platform learns of them then, or of a label. Only the
    last can have arrived longer ago than the maturity, so that of older days the ids are enough to tell."""
    recent = shift(days[0], -settings.verdicts.maturity_days)
    start, end = _midnight(days[0]), _midnight(shift(days[-1], 1))
    arrived = _validated_days(lake, TRANSACTIONS, first, days[-1])
    none = lake.read(TRANSACTIONS, arrived[:1], SUBJECT).slice(0, 0)

    def of_day(day: str) -> pa.Table:
        if day < recent and not _any_in(lake.read(TRANSACTIONS, [day], ["transaction_id"]).column(0), labelled):
            return none
        rows = lake.read(TRANSACTIONS, [day], SUBJECT)
        happened, learnt = rows.column("event_timestamp"), rows.column("created_timestamp")
        matured = pc.add(happened, pa.scalar(settings.maturity, pa.duration("us")))
        then = pc.or_(_within(matured, start, end), pc.or_(_within(learnt, start, end), _within(happened, start, end)))
        return rows.filter(pc.or_(then, pc.is_in(rows.column("transaction_id"), value_set=labelled)))

    return pa.concat_tables([none, *in_order(of_day, arrived)])


def pending_verdicts(lake: Lake, settings: Settings) -> pd.DataFrame:
    """The verdicts that silence will bring after the lake's last day, as far as labels (the service's newest too) do not say otherwise."""
    last = lake.partitions(TRANSACTIONS)[-1]
    start = _midnight(shift(last, 1))
    first = shift(last, -settings.verdicts.maturity_days - LATENESS_DAYS)
    newest = [read_labels(settings.serving_db, shift(last, n)) for n in range(1, settings.verdicts.maturity_days + 2)]
    labels = pa.concat_tables([_validated_rows(lake, LABELS, first, last, LABEL), *(table.select(LABEL) for table in newest)])
    return verdicts_known(
        to_frame(_validated_rows(lake, TRANSACTIONS, first, last, SUBJECT)),
        to_frame(labels),
        blocked_ids(lake, settings, first, last),
        settings.maturity,
        start,
        start + settings.maturity,
    )


def _validated_rows(lake: Lake, dataset: str, first: str, last: str, columns: Sequence[str]) -> pa.Table:
    return lake.read(dataset, _validated_days(lake, dataset, first, last), columns)


def _validated_days(lake: Lake, dataset: str, first: str, last: str) -> list[str]:
    """The days that passed validation; one that did not is left out, as a day without a feed is, and freezes nothing."""
    days = lake.between(dataset, first, last, validated=True)
    if not days:
        raise NotValidated(f"{dataset}: no day from {first} to {last} has passed validation")
    return days


def blocked_ids(lake: Lake, settings: Settings, first: str, last: str) -> set[str]:
    """What the service blocked, by the log of the days on which it took transactions: the lake has it also where the service's own file is gone.

    A day that it served and that is not in `prediction_log` yet is `MissingPartitions`: what it blocked is not known.
    """
    served = {day for day in served_days(settings.serving_db) if first <= day <= last}
    logged = lake.manifests(PREDICTION_LOG, sorted(served.union(lake.between(PREDICTION_LOG, first, last))))
    blocked: set[str] = set()
    for day in (manifest.partition for manifest in logged if manifest.rows):
        log = lake.read(PREDICTION_LOG, [day], ["prediction_id", "kind", "decision"])
        if _any_in(log.column("kind"), pa.chunked_array([["transaction"]])):
            blocked.update(log.filter(pc.equal(log.column("decision"), "BLOCK")).column("prediction_id").to_pylist())
    return blocked


def _any_in(ids: pa.ChunkedArray, wanted: pa.ChunkedArray) -> bool:
    return bool(pc.any(pc.is_in(ids, value_set=wanted)).as_py())


def _within(times: pa.ChunkedArray, start: pd.Timestamp, end: pd.Timestamp) -> pa.ChunkedArray:
    """Which of them lie in [start, end)."""
    return pc.and_(pc.greater_equal(times, pa.scalar(start, TIME)), pc.less(times, pa.scalar(end, TIME)))


def _midnight(day: str) -> pd.Timestamp:
    return pd.Timestamp(day, tz="UTC")


def _from_log(log: pa.Table, feed: Feed) -> pa.Table:
    """The service's log in the columns of a raw table; ready-made vectors bring no transaction."""
    if "kind" in log.column_names:
        log = log.filter(pc.equal(log.column("kind"), "transaction")).rename_columns({"prediction_id": "transaction_id"})
    names = [field.name for field in feed.raw_columns]
    columns = [log.column(f.name) if f.name in log.column_names else pa.nulls(log.num_rows, f.type) for f in feed.raw_columns]
    return pa.table(columns, names=names).select([name for name in names if name != "arrival_day"])
