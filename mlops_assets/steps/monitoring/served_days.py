"""The recorded decisions of the service, copied to the lake and counted by day."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.lake.datasets import Lake, Manifest
from mlops_assets.core.keys import PREDICTION_LOG
from mlops_assets.core.use_case import UseCase
from mlops_assets.resources.lake import write_days
from serving.store.base import ServingLog


@dataclass(frozen=True)
class ServedDay:
    """A day of the service's log in the lake.

    `decisions` counts each decision. `oldest` has, by view, the greatest age of its newest event at a
    decision, in hours; None where a decision found no event.
    """

    manifest: Manifest
    requests: int
    degraded: int
    decisions: Mapping[str, int]
    versions: tuple[str, ...]
    oldest: Mapping[str, float | None]


def write_log(case: UseCase, lake: Lake, log: ServingLog, days: Sequence[str]) -> dict[str, ServedDay]:
    """Copy the decisions of the days from the service's log, and count them, by day."""
    tables = {day: log.decisions(day, case) for day in days}
    written = write_days(
        lake, PREDICTION_LOG, pa.concat_tables(tables.values()), "created_timestamp", list(days)
    )
    return {day: _served(written[day], table) for day, table in tables.items()}


def oldest_events(freshness: Sequence[str | None]) -> dict[str, float | None]:
    """The greatest age of the newest event at a decision, in hours, by view.

    It is None where a decision found no event. `freshness` has the log's JSON of each decision.
    """
    oldest: dict[str, float | None] = {}
    for text in set(freshness) - {None}:
        for view, seconds in json.loads(str(text)).items():
            before = oldest.get(view, 0.0)
            oldest[view] = None if seconds is None or before is None else max(before, seconds / 3_600)
    return oldest


def _served(manifest: Manifest, table: pa.Table) -> ServedDay:
    counts = pc.value_counts(table.column("decision")).to_pylist()
    return ServedDay(
        manifest=manifest,
        requests=table.num_rows,
        degraded=int(pc.sum(table.column("degraded")).as_py() or 0),
        decisions={entry["values"]: entry["counts"] for entry in counts},
        versions=tuple(sorted(set(table.column("model_version").to_pylist()))),
        oldest=oldest_events(table.column("freshness").to_pylist()),
    )
