"""The ingest group: raw rows, accepted rows, quarantined rows with their reasons, and verdicts.

The rows of a served day come from the service's log. The rows of any other day come from the source.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from dagster import (
    AssetCheckResult,
    AssetCheckSpec,
    AssetExecutionContext,
    AssetsDefinition,
    AssetSpec,
    DailyPartitionsDefinition,
    MetadataValue,
    multi_asset,
)

from feature_repo.lake.datasets import Lake
from feature_repo.lake.manifests import Manifest
from mlops_assets.core.data.base import Source
from mlops_assets.core.data.streams import Stream
from mlops_assets.core.data.validation import Validation
from mlops_assets.core.data.verdict_history import verdict_columns
from mlops_assets.core.keys import INGEST, PREDICTION_LOG, VERDICTS
from mlops_assets.core.use_case import UseCase
from mlops_assets.core.words import Words, as_column
from mlops_assets.graph.checks import Reported, blocking, markdown_table, reported, result, warning
from mlops_assets.graph.headers import described
from mlops_assets.graph.partitions import ONE_RUN, arrival_days, days_of
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import LakeResource, to_table, write_days
from mlops_assets.steps.ingest.delivery import delivered
from mlops_assets.steps.ingest.early_labels import BELIEVABLE, EarlyLabels
from mlops_assets.steps.ingest.feed_checks import FROM_LOG, behind, last_to_come, look, of_day
from mlops_assets.steps.ingest.label_matches import ArrivedLabels, match_metadata
from mlops_assets.steps.ingest.sorted_rows import earlier_arrivals, odd_volumes, sort_day
from mlops_assets.steps.ingest.verdict_making import verdicts_of
from serving.store.opening import serving_log

REASONS_SHOWN = 10


def ingestion_assets(case: UseCase, settings: Settings, source: Source) -> list[AssetsDefinition]:
    """The raw and the validated rows of every stream of the use case, and the verdicts."""
    streams = case.streams(settings.bounds)
    return [
        *(_raw(case, settings, stream, source) for stream in streams),
        *(_validated(case, settings, stream) for stream in streams),
        _verdicts(case, settings),
    ]


def _raw(case: UseCase, settings: Settings, stream: Stream, source: Source) -> AssetsDefinition:
    days, name = arrival_days(settings.time.start, settings.time.end), stream.raw
    question = (
        "For each ingested day the source holds the ingested rows and no others, and it holds no rows of"
        " future days."
    )
    taken = warning(name, "nothing_left_behind", question, days)

    @described(
        case,
        name,
        f"The rows of {stream.dataset} as they were delivered, before any check.",
        group=INGEST,
        kinds={"source", "parquet"},
        days=days,
        backfill_policy=ONE_RUN,
        check_specs=[taken],
    )
    def raw(context: AssetExecutionContext, lake: LakeResource) -> Iterator[Reported]:
        made, opened = days_of(context), lake.open()
        coming = last_to_come(settings, datetime.now(UTC).date())
        files = look(opened, stream, source, made, coming)
        tables, served = delivered(case, serving_log(settings.serving_db), source, stream, made)
        written = [
            opened.write(
                name, day, tables[day], metadata={FROM_LOG: True} if day in served else of_day(files, day)
            )
            for day in made
        ]
        left = behind(case, opened, settings, stream, files, coming)
        outcome = result(taken, not left, left.metadata())
        yield from reported(context, name, written, results={day: [outcome] for day in made})

    return raw


def _validated(case: UseCase, settings: Settings, stream: Stream) -> AssetsDefinition:
    days = arrival_days(settings.time.start, settings.time.end)
    checks = _Checks.of(case, settings, stream, days)
    # Labels are matched with the events of the lake.
    sources = [stream.raw, case.event.dataset] if stream.dataset == case.labels.dataset else [stream.raw]
    common: dict[str, Any] = {
        "deps": sources,
        "group_name": INGEST,
        "owners": [case.owner],
        "kinds": {"pandera", "parquet"},
    }
    hold = f"The accepted {stream.dataset}: typed, in range, each once. Everything downstream reads these."
    broken = f"The quarantined {stream.dataset} in their original text, each with its reasons."

    @multi_asset(
        name=f"validated_{stream.dataset}",
        specs=[
            AssetSpec(stream.dataset, description=hold, **common),
            AssetSpec(stream.quarantined, description=broken, **common),
        ],
        partitions_def=days,
        backfill_policy=ONE_RUN,
        check_specs=checks.specs,
    )
    def validated(context: AssetExecutionContext, lake: LakeResource) -> Iterator[Reported]:
        made, opened = days_of(context), lake.open()
        good, bad, outcomes = _sort(opened, settings, stream, made)
        told, checked = checks.results(opened, good, outcomes)
        yield from reported(context, stream.dataset, good, told, checked)
        kept = {day: {"reasons": _reasons(outcome)} for day, outcome in outcomes.items()}
        yield from reported(context, stream.quarantined, bad, kept)

    return validated


def _sort(
    lake: Lake, settings: Settings, stream: Stream, made: Sequence[str]
) -> tuple[list[Manifest], list[Manifest], dict[str, Validation]]:
    """Write the accepted and the quarantined rows of each day.

    Returns the manifests of both, and the outcomes by day.
    """
    good: list[Manifest] = []
    bad: list[Manifest] = []
    outcomes: dict[str, Validation] = {}
    arrivals = earlier_arrivals(lake, settings, stream, made[0])
    for day in made:
        outcomes[day] = outcome = sort_day(lake, settings, stream, day, arrivals)
        sound = len(outcome.quarantined) <= settings.ingest.max_quarantined_share * outcome.received
        text = pa.schema([(column, pa.string()) for column in outcome.quarantined.columns])
        # The quarantine is written first. Otherwise a reader could see accepted rows without a record of the
        # rows that were left out.
        left_out, kept = to_table(outcome.quarantined, text), to_table(outcome.accepted, stream.columns)
        bad.append(lake.write(stream.quarantined, day, left_out, metadata=outcome.counts))
        good.append(lake.write(stream.dataset, day, kept, validated=sound, metadata=outcome.counts))
    return good, bad, outcomes


@dataclass(frozen=True)
class _Checks:
    """The checks of a validated stream. Only labels have the checks `match` and `early`."""

    case: UseCase
    settings: Settings
    stream: Stream
    schema: AssetCheckSpec
    counts: AssetCheckSpec
    volume: AssetCheckSpec
    match: AssetCheckSpec
    early: AssetCheckSpec

    @classmethod
    def of(
        cls, case: UseCase, settings: Settings, stream: Stream, days: DailyPartitionsDefinition
    ) -> "_Checks":
        name, share = stream.dataset, settings.ingest.max_quarantined_share
        events = case.event.dataset
        schema = f"At most {share:.0%} of the rows of a day went to quarantine."
        counts = "Received = accepted + duplicate + quarantined, for every day."
        volume = "Each day has rows, and about as many as the days before it."
        match = (
            f"The labels of the last days are about {events} of the lake, as far as these can have arrived."
        )
        early = f"At most {BELIEVABLE:.0%} of the labels became known at the time of their event."
        return cls(
            case,
            settings,
            stream,
            schema=blocking(name, "schema", schema, days),
            counts=blocking(name, "counts", counts, days),
            volume=warning(name, "volume", volume, days),
            match=warning(name, "ids_match", match, days),
            early=warning(name, "known_later", early, days),
        )

    @property
    def specs(self) -> list[AssetCheckSpec]:
        labels = [self.match, self.early] if self.stream.dataset == self.case.labels.dataset else []
        return [self.schema, self.counts, self.volume, *labels]

    def results(
        self, lake: Lake, good: Sequence[Manifest], outcomes: Mapping[str, Validation]
    ) -> tuple[dict[str, dict[str, Any]], dict[str, list[AssetCheckResult]]]:
        """The metadata and the outcomes of all checks, by day."""
        odd = odd_volumes(self.case, lake, self.settings, self.stream.dataset, good)
        told: dict[str, dict[str, Any]] = {}
        checked: dict[str, list[AssetCheckResult]] = {}
        for manifest in good:
            day, outcome = manifest.partition, outcomes[manifest.partition]
            told[day], rows = dict(outcome.counts), outcome.counts
            adds_up = rows["received"] == rows["accepted"] + rows["duplicate"] + rows["quarantined"]
            reasons = {"day": day, **rows, "reasons": _reasons(outcome)}
            checked[day] = [
                result(self.schema, manifest.validated, reasons),
                result(self.counts, adds_up, {"day": day, **rows}),
                result(self.volume, day not in odd, {"odd days": odd.get(day, "none")}),
            ]
        if self.stream.dataset == self.case.labels.dataset:
            self._add_labels(lake, told, checked)
        return told, checked

    def _add_labels(
        self, lake: Lake, told: dict[str, dict[str, Any]], checked: dict[str, list[AssetCheckResult]]
    ) -> None:
        arrived = ArrivedLabels(self.case, lake, self.settings, list(told))
        early = EarlyLabels(self.case, lake, self.settings, list(told))
        waiting = f"waiting for their {Words.of(self.case).event}"
        for day in told:
            found, old_enough = arrived.match(day)
            told[day][waiting] = arrived.waiting(day)
            at_once = early.up_to(day)
            about = match_metadata(self.case, found)
            checked[day].append(result(self.match, not found.broken(old_enough), about))
            checked[day].append(result(self.early, not at_once.leak, at_once.metadata()))


def _reasons(outcome: Validation) -> MetadataValue:
    """The most frequent reasons of a day's quarantine, each with one example."""
    shown = list(outcome.reasons.items())[:REASONS_SHOWN]
    rows = [(reason, n, outcome.examples[reason]) for reason, n in shown]
    return markdown_table(["reason", "rows", "such as"], rows)


def _verdicts(case: UseCase, settings: Settings) -> AssetsDefinition:
    label, positives = case.labels.name, as_column(Words.of(case).positives)
    silence = "a label, or silence until maturity" if case.labels.silence == "negative" else "a label"
    withheld = " or ".join(case.labels.withheld_by)
    after = (
        f" After {withheld} only a label counts." if withheld and case.labels.silence == "negative" else ""
    )

    @described(
        case,
        VERDICTS,
        f"What became known on the day: {silence}.{after}",
        group=INGEST,
        kinds={"parquet"},
        days=arrival_days(settings.time.start, settings.time.end),
        backfill_policy=ONE_RUN,
        deps=[case.event.dataset, case.labels.dataset, PREDICTION_LOG],
    )
    def verdicts(context: AssetExecutionContext, lake: LakeResource) -> Iterator[Reported]:
        made, opened = days_of(context), lake.open()
        known = verdicts_of(case, opened, settings, made)
        rows = to_table(known, verdict_columns(case))
        written = write_days(opened, VERDICTS, rows, "created_timestamp", made)
        found = known.loc[known[label].astype(bool), "created_timestamp"].dt.strftime("%Y-%m-%d")
        counts = found.value_counts()
        told = {day: {positives: int(counts.get(day, 0))} for day in made}
        yield from reported(context, VERDICTS, written.values(), told)

    return verdicts
