"""The ingest group: raw rows as they came, the ones that hold, the ones in quarantine with a reason each, and
verdicts.

A day that the service served comes from its own log; any other day from the source. Never from both.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime
from statistics import median
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from dagster import (
    AssetCheckResult,
    AssetExecutionContext,
    AssetsDefinition,
    AssetSpec,
    MetadataValue,
    asset,
    multi_asset,
)

from feature_repo.engine.local.parallel import in_order
from feature_repo.lake.datasets import Lake, Manifest
from mlops_assets.core.data.base import Source, by_day
from mlops_assets.core.data.validation import Validation, validate
from mlops_assets.core.data.verdict_history import verdicts_known
from mlops_assets.core.keys import (
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
from mlops_assets.core.use_case import Table, UseCase
from mlops_assets.graph.checks import Reported, blocking, markdown_table, reported, result, warning
from mlops_assets.graph.partitions import ONE_RUN, arrival_days, days_of
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import LakeResource, NotValidated, shift, to_frame, to_table, write_days
from mlops_assets.steps.feed_checks import (
    FROM_LOG,
    Arrived,
    behind,
    last_to_come,
    look,
    match_metadata,
    of_day,
)
from serving.store.sqlite.decision_log import read_decisions, read_labels, served_days

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
SUBJECT = ["transaction_id", "event_timestamp", "created_timestamp", "customer_id", "merchant_id", "amount"]
LABEL = ["transaction_id", "is_fraud", "label_timestamp"]


def ingestion_assets(case: UseCase, settings: Settings, source: Source) -> list[AssetsDefinition]:
    return [
        _raw(
            case,
            settings,
            RAW_TRANSACTIONS,
            case.event_table,
            source,
            "Card transactions as they were delivered, before any check.",
        ),
        _raw(
            case,
            settings,
            RAW_LABELS,
            case.label_table,
            source,
            "Labels as they were reported: chargebacks and the outcomes of investigations.",
        ),
        _validated(
            case, settings, TRANSACTIONS, QUARANTINED_TRANSACTIONS, RAW_TRANSACTIONS, case.event_table
        ),
        _validated(case, settings, LABELS, QUARANTINED_LABELS, RAW_LABELS, case.label_table),
        _verdicts(case, settings),
    ]


def _raw(
    case: UseCase, settings: Settings, name: str, feed: Table, source: Source, description: str
) -> AssetsDefinition:
    days = arrival_days(settings.time.start, settings.time.end)
    question = (
        "Of the days that are made, the source holds the rows that were taken and no others; it holds none of"
        " days that have not come."
    )
    taken = warning(name, "nothing_left_behind", question, days)

    @asset(
        name=name,
        description=description,
        group_name=INGEST,
        owners=[case.owner],
        kinds={"source", "parquet"},
        partitions_def=days,
        backfill_policy=ONE_RUN,
        check_specs=[taken],
    )
    def raw(context: AssetExecutionContext, lake: LakeResource) -> Iterator[Reported]:
        made, opened = days_of(context), lake.open()
        coming = last_to_come(settings, datetime.now(UTC).date())
        files = look(opened, name, source, made, coming)
        tables, served = delivered(made, settings, name, feed, source)
        written = [
            opened.write(
                name, day, tables[day], metadata={FROM_LOG: True} if day in served else of_day(files, day)
            )
            for day in made
        ]
        left = behind(opened, settings, name, files, coming)
        outcome = result(taken, not left, left.metadata())
        yield from reported(context, name, written, results={day: [outcome] for day in made})

    return raw


def _validated(
    case: UseCase, settings: Settings, name: str, quarantine: str, raw_name: str, feed: Table
) -> AssetsDefinition:
    days = arrival_days(settings.time.start, settings.time.end)
    schema = blocking(
        name,
        "schema",
        f"Not more than {settings.ingest.max_quarantined_share:.0%} of a day's rows had to go to quarantine.",
        days,
    )
    counts = blocking(name, "counts", "Received = accepted + duplicate + quarantined, for every day.", days)
    volume = warning(name, "volume", "Each day has rows, and about as many as the days before it.", days)
    match = warning(
        LABELS,
        "ids_match",
        "The labels of the last days are about transactions that are here, as far as one can expect that.",
        days,
    )
    sources = [RAW_TRANSACTIONS] if name == TRANSACTIONS else [raw_name, TRANSACTIONS]
    common: dict[str, Any] = {"group_name": INGEST, "owners": [case.owner], "kinds": {"pandera", "parquet"}}

    @multi_asset(
        name=f"validated_{name}",
        specs=[
            AssetSpec(
                name,
                deps=sources,
                description=(
                    f"The {name} that hold: typed, in range, each once. What is downstream reads these."
                ),
                **common,
            ),
            AssetSpec(
                quarantine,
                deps=sources,
                description=f"The {name} that do not hold, as they came, each with its reasons.",
                **common,
            ),
        ],
        partitions_def=days,
        backfill_policy=ONE_RUN,
        check_specs=[schema, counts, volume, *([match] if name == LABELS else [])],
    )
    def validated(context: AssetExecutionContext, lake: LakeResource) -> Iterator[Reported]:
        made, opened = days_of(context), lake.open()
        good: list[Manifest] = []
        bad: list[Manifest] = []
        outcomes: dict[str, Validation] = {}
        known = (
            Arrivals(opened, shift(made[0], -settings.ingest.horizon_days), shift(made[0], -1))
            if name == TRANSACTIONS
            else None
        )
        for day in made:
            outcomes[day] = outcome = validated_day(opened, settings, raw_name, feed, day, known)
            sound = len(outcome.quarantined) <= settings.ingest.max_quarantined_share * outcome.received
            text = pa.schema([(column, pa.string()) for column in outcome.quarantined.columns])
            # The quarantine comes first: a day is never readable as accepted before what was left out of it
            # is on record.
            bad.append(
                opened.write(quarantine, day, to_table(outcome.quarantined, text), metadata=outcome.counts)
            )
            good.append(
                opened.write(
                    name,
                    day,
                    to_table(outcome.accepted, feed.columns),
                    validated=sound,
                    metadata=outcome.counts,
                )
            )
        odd = odd_volumes(opened, settings, name, good)
        arrived = Arrived(opened, settings, made) if name == LABELS else None
        told: dict[str, dict[str, Any]] = {}
        checked: dict[str, list[AssetCheckResult]] = {}
        for manifest in good:
            day, outcome = manifest.partition, outcomes[manifest.partition]
            told[day], rows = dict(outcome.counts), outcome.counts
            reasons = _reasons(outcome)
            checked[day] = [
                result(schema, manifest.validated, {"day": day, **rows, "reasons": reasons}),
                result(
                    counts,
                    rows["received"] == rows["accepted"] + rows["duplicate"] + rows["quarantined"],
                    {"day": day, **rows},
                ),
                result(volume, day not in odd, {"odd days": odd.get(day, "none")}),
            ]
            if arrived is not None:
                found, old_enough = arrived.match(day)
                told[day]["waiting for their transaction"] = arrived.waiting(day)
                checked[day].append(result(match, not found.broken(old_enough), match_metadata(found)))
        yield from reported(context, name, good, told, checked)
        kept = {day: {"reasons": _reasons(outcome)} for day, outcome in outcomes.items()}
        yield from reported(context, quarantine, bad, kept)

    return validated


def _reasons(outcome: Validation) -> MetadataValue:
    """The most frequent reasons of a day's quarantine, with one whole example of each."""
    shown = list(outcome.reasons.items())[:REASONS_SHOWN]
    rows = [(reason, n, outcome.examples[reason]) for reason, n in shown]
    return markdown_table(["reason", "rows", "such as"], rows)


def _verdicts(case: UseCase, settings: Settings) -> AssetsDefinition:
    @asset(
        name=VERDICTS,
        description=(
            "What became known on the day: a label, or silence until maturity. Blocked and never investigated"
            " is never known."
        ),
        group_name=INGEST,
        owners=[case.owner],
        kinds={"parquet"},
        partitions_def=arrival_days(settings.time.start, settings.time.end),
        backfill_policy=ONE_RUN,
        deps=[TRANSACTIONS, LABELS, PREDICTION_LOG],
    )
    def verdicts(context: AssetExecutionContext, lake: LakeResource) -> Iterator[Reported]:
        made = days_of(context)
        opened = lake.open()
        known = known_verdicts(opened, settings, made)
        written = write_days(opened, VERDICTS, to_table(known, VERDICT_COLUMNS), "created_timestamp", made)
        frauds = (
            known.loc[known["is_fraud"].astype(bool), "created_timestamp"]
            .dt.strftime("%Y-%m-%d")
            .value_counts()
        )
        yield from reported(
            context, VERDICTS, written.values(), {day: {"frauds": int(frauds.get(day, 0))} for day in made}
        )

    return verdicts


def delivered(
    days: Sequence[str], settings: Settings, name: str, feed: Table, source: Source
) -> tuple[dict[str, pa.Table], set[str]]:
    """One raw table a day, and the days whose table is from the service's log: those that it served.

    The others are from the source.
    """
    what: Literal["transactions", "labels"] = "transactions" if name == RAW_TRANSACTIONS else "labels"
    read, deliver = (
        (read_decisions, source.transactions) if name == RAW_TRANSACTIONS else (read_labels, source.labels)
    )
    served = served_days(settings.serving_db, "labels" if what == "labels" else "events", days)
    tables = {day: _from_log(read(settings.serving_db, day), feed) for day in served}
    if others := sorted(set(days) - served):
        first, last = date.fromisoformat(others[0]), date.fromisoformat(others[-1])
        tables |= {
            day: table
            for day, table in by_day(deliver(first, last), first, last).items()
            if day not in served
        }
    return tables, served


class Arrivals:
    """The ids that were accepted on each day, read once for a whole range of days."""

    def __init__(self, lake: Lake, first: str, last: str) -> None:
        days = lake.between(TRANSACTIONS, first, last)
        self._ids = dict(
            zip(
                days,
                in_order(lambda day: lake.read(TRANSACTIONS, [day], ["transaction_id"]).column(0), days),
                strict=True,
            )
        )

    def add(self, day: str, ids: Iterable[str]) -> None:
        self._ids[day] = pa.chunked_array([pa.array(ids, pa.string())])

    def among(self, ids: pa.ChunkedArray, first: str, last: str) -> set[str]:
        """Those of `ids` that were accepted from `first` to `last`, both included."""
        accepted = [
            chunk for day, column in self._ids.items() if first <= day <= last for chunk in column.chunks
        ]
        every = pa.chunked_array(accepted, pa.string())
        return set(every.filter(pc.is_in(every, value_set=ids.drop_null())).to_pylist())


def validated_day(
    lake: Lake, settings: Settings, raw_name: str, feed: Table, day: str, arrivals: Arrivals | None
) -> Validation:
    """Sort the raw rows of a day.

    With `arrivals`, an id that one of the days before has is not accepted again, and what is accepted is
    added.

    A label is accepted whether its transaction is here or not: verdicts match the two whenever both are.
    """
    table = lake.read(raw_name, [day])
    ids = table.column("transaction_id")
    known = (
        arrivals.among(ids, shift(day, -settings.ingest.horizon_days), shift(day, -1)) if arrivals else None
    )
    outcome = validate(
        to_frame(table),
        feed.schema(date.fromisoformat(day)),
        key=feed.key,
        order=feed.order,
        prefer=feed.prefer,
        known=known,
    )
    if arrivals:
        arrivals.add(day, outcome.accepted["transaction_id"])
    return outcome


def odd_volumes(lake: Lake, settings: Settings, name: str, written: Sequence[Manifest]) -> dict[str, str]:
    """Days without rows, or with many times the median of the days before them, each with a sentence."""
    odd = {}
    window = lake.between(
        name, shift(written[0].partition, -settings.ingest.volume_window_days), written[-1].partition
    )
    known = {m.partition: m.rows for m in lake.manifests(name, window)}
    for manifest in written:
        first = shift(manifest.partition, -settings.ingest.volume_window_days)
        before = [rows for day, rows in known.items() if first <= day < manifest.partition]
        usual = median(before) if len(before) >= DAYS_TO_COMPARE else 0
        expected = any(before) or (
            name == TRANSACTIONS and not before
        )  # labels begin only when the first frauds have been reported
        if not manifest.rows and expected:
            odd[manifest.partition] = f"{manifest.partition}: no rows"
        elif (
            usual
            and not settings.ingest.min_volume_ratio * usual
            <= manifest.rows
            <= settings.ingest.max_volume_ratio * usual
        ):
            odd[manifest.partition] = (
                f"{manifest.partition}: {manifest.rows:,} rows where {usual:,.0f} are usual"
            )
    return odd


def known_verdicts(lake: Lake, settings: Settings, days: Sequence[str]) -> pd.DataFrame:
    """The verdicts that became known on `days`, from validated transactions and labels, less what was blocked
    and not investigated.
    """
    horizon = settings.ingest.horizon_days
    first = shift(days[0], -horizon)
    start, end = _midnight(days[0]), _midnight(shift(days[-1], 1))
    # A label may have waited for as long as a transaction that gets a verdict now has been known.
    labels = _validated_rows(lake, LABELS, shift(first, -horizon), days[-1], LABEL)
    new = labels.filter(_within(labels.column("label_timestamp"), start, end)).column("transaction_id")
    subjects = _subjects(lake, settings, first, days, new)
    about_them = labels.filter(
        pc.is_in(labels.column("transaction_id"), value_set=subjects.column("transaction_id"))
    )
    blocked = blocked_ids(lake, settings, first, days[-1])
    return verdicts_known(
        to_frame(subjects), to_frame(about_them), blocked, settings.maturity, start, end, horizon
    )


def _subjects(
    lake: Lake, settings: Settings, first: str, days: Sequence[str], labelled: pa.ChunkedArray
) -> pa.Table:
    """The transactions since `first` that can get a verdict on `days`: they mature then, or the platform
    learns of them then, or of a label.

    Only the last can have arrived longer ago than the maturity, so that of older days the ids are enough to
    tell.
    """
    recent = shift(days[0], -settings.verdicts.maturity_days)
    start, end = _midnight(days[0]), _midnight(shift(days[-1], 1))
    arrived = _validated_days(lake, TRANSACTIONS, first, days[-1])
    none = lake.read(TRANSACTIONS, arrived[:1], SUBJECT).slice(0, 0)

    def of_day(day: str) -> pa.Table:
        if day < recent and not _any_in(
            lake.read(TRANSACTIONS, [day], ["transaction_id"]).column(0), labelled
        ):
            return none
        rows = lake.read(TRANSACTIONS, [day], SUBJECT)
        happened, learnt = rows.column("event_timestamp"), rows.column("created_timestamp")
        matured = pc.add(happened, pa.scalar(settings.maturity, pa.duration("us")))
        then = pc.or_(
            _within(matured, start, end), pc.or_(_within(learnt, start, end), _within(happened, start, end))
        )
        return rows.filter(pc.or_(then, pc.is_in(rows.column("transaction_id"), value_set=labelled)))

    return pa.concat_tables([none, *in_order(of_day, arrived)])


def pending_verdicts(lake: Lake, settings: Settings) -> pd.DataFrame:
    """The verdicts that silence will bring after the lake's last day, as far as labels (the service's newest
    too) do not say otherwise.
    """
    last = lake.partitions(TRANSACTIONS)[-1]
    start = _midnight(shift(last, 1))
    first = shift(last, -settings.verdicts.maturity_days - settings.bounds.lateness_days)
    newest = [
        read_labels(settings.serving_db, shift(last, n))
        for n in range(1, settings.verdicts.maturity_days + 2)
    ]
    waited = shift(first, -settings.ingest.horizon_days)
    labels = pa.concat_tables(
        [_validated_rows(lake, LABELS, waited, last, LABEL), *(table.select(LABEL) for table in newest)]
    )
    return verdicts_known(
        to_frame(_validated_rows(lake, TRANSACTIONS, first, last, SUBJECT)),
        to_frame(labels),
        blocked_ids(lake, settings, first, last),
        settings.maturity,
        start,
        start + settings.maturity,
        settings.ingest.horizon_days,
    )


def _validated_rows(lake: Lake, dataset: str, first: str, last: str, columns: Sequence[str]) -> pa.Table:
    return lake.read(dataset, _validated_days(lake, dataset, first, last), columns)


def _validated_days(lake: Lake, dataset: str, first: str, last: str) -> list[str]:
    """The days that passed validation; one that did not is left out, as a day without a feed is, and freezes
    nothing.
    """
    days = lake.between(dataset, first, last, validated=True)
    if not days:
        raise NotValidated(f"{dataset}: no day from {first} to {last} has passed validation")
    return days


def blocked_ids(lake: Lake, settings: Settings, first: str, last: str) -> set[str]:
    """What the service blocked, by the log of the days on which it took transactions: the lake has it also
    where the service's own file is gone.

    A day that it served and that is not in `prediction_log` yet is `MissingPartitions`: what it blocked is
    not known.
    """
    served = {day for day in served_days(settings.serving_db) if first <= day <= last}
    logged = lake.manifests(PREDICTION_LOG, sorted(served.union(lake.between(PREDICTION_LOG, first, last))))
    blocked: set[str] = set()
    for day in (manifest.partition for manifest in logged if manifest.rows):
        log = lake.read(PREDICTION_LOG, [day], ["prediction_id", "kind", "decision"])
        if _any_in(log.column("kind"), pa.chunked_array([["transaction"]])):
            blocked.update(
                log.filter(pc.equal(log.column("decision"), "BLOCK")).column("prediction_id").to_pylist()
            )
    return blocked


def _any_in(ids: pa.ChunkedArray, wanted: pa.ChunkedArray) -> bool:
    return bool(pc.any(pc.is_in(ids, value_set=wanted)).as_py())


def _within(times: pa.ChunkedArray, start: pd.Timestamp, end: pd.Timestamp) -> pa.ChunkedArray:
    """Which of them lie in [start, end)."""
    return pc.and_(pc.greater_equal(times, pa.scalar(start, TIME)), pc.less(times, pa.scalar(end, TIME)))


def _midnight(day: str) -> pd.Timestamp:
    return pd.Timestamp(day, tz="UTC")


def _from_log(log: pa.Table, feed: Table) -> pa.Table:
    """The service's log in the columns of a raw table; ready-made vectors bring no transaction."""
    if "kind" in log.column_names:
        log = log.filter(pc.equal(log.column("kind"), "transaction")).rename_columns(
            {"prediction_id": "transaction_id"}
        )
    names = [field.name for field in feed.raw_columns]
    columns = [
        log.column(f.name) if f.name in log.column_names else pa.nulls(log.num_rows, f.type)
        for f in feed.raw_columns
    ]
    return pa.table(columns, names=names).select([name for name in names if name != "arrival_day"])
