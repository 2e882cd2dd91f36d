"""Which labels belong to events of the lake. Each ingest run looks at that."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.engine.local.parallel import in_order
from feature_repo.lake.datasets import Lake
from mlops_assets.core.data.completeness import TOGETHER, WAYS, Match, match_ids
from mlops_assets.core.data.streams import LABEL_TIMESTAMP
from mlops_assets.core.keys import REMEDY
from mlops_assets.core.use_case import UseCase
from mlops_assets.core.words import Words
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import shift

LOOKS = 3  # days on which every way of writing an id is tried


class ArrivedLabels:
    """The labels of a range of days, and the ids of the events that had arrived by each day."""

    def __init__(self, case: UseCase, lake: Lake, settings: Settings, made: Sequence[str]) -> None:
        event, labels = case.event, case.labels.dataset
        self._settings, self._ways, self._looks = settings, (*WAYS, TOGETHER), 0
        window = lake.between(labels, shift(made[0], -settings.ingest.volume_window_days), made[-1])
        self._labels = {day: lake.read(labels, [day], [event.id]).column(0) for day in window}
        wanted = pa.chunked_array(
            [chunk for ids in self._labels.values() for chunk in ids.chunks], pa.string()
        ).unique()
        days = lake.between(event.dataset, shift(made[0], -settings.ingest.horizon_days), made[-1])
        ids = in_order(lambda day: lake.read(event.dataset, [day], [event.id]).column(0), days)
        self._ids = dict(zip(days, ids, strict=True))
        self._found = {day: ids.filter(pc.is_in(ids, value_set=wanted)) for day, ids in self._ids.items()}

    def waiting(self, day: str) -> int:
        """The number of labels of a day whose event had not arrived by the end of the day."""
        labels = self._labels[day]
        return len(labels) - int(
            pc.sum(pc.is_in(labels, value_set=self._known(self._found, day).combine_chunks())).as_py() or 0
        )

    def match(self, day: str) -> tuple[Match, bool]:
        """How the labels of the days up to `day` match, and whether events go back a whole maturity."""
        first = shift(day, -self._settings.ingest.volume_window_days)
        labels = pa.chunked_array(
            [c for one, ids in self._labels.items() if first <= one <= day for c in ids.chunks], pa.string()
        ).combine_chunks()
        found = match_ids(labels, self._known(self._found, day))
        if found.nearly_none and len(labels):  # Only then are the other ids needed.
            found = match_ids(labels, self._known(self._ids, day), self._ways)
            self._looks += 1
            # All days of a broken feed are broken in one way. Trying every way on each day takes minutes.
            if found.cause or self._looks == LOOKS:
                self._ways = (found.cause,) if found.cause else ()
        begun = min((one for one, ids in self._ids.items() if len(ids)), default=day)
        return found, begun <= shift(day, -self._settings.verdicts.maturity_days)

    def _known(self, ids: Mapping[str, pa.ChunkedArray], day: str) -> pa.ChunkedArray:
        first = shift(day, -self._settings.ingest.horizon_days)
        return pa.chunked_array(
            [c for one, column in ids.items() if first <= one <= day for c in column.chunks], pa.string()
        )


def waiting_labels(case: UseCase, lake: Lake, settings: Settings, last: str) -> list[tuple[str, int, bool]]:
    """The labels of the lake up to the day `last` whose event has not arrived.

    Each is the event's id, when the label became known (microseconds since the epoch), and whether it is
    positive.
    """
    horizon, event = settings.ingest.horizon_days, case.event
    days = lake.between(case.labels.dataset, shift(last, -horizon), last, validated=True)
    if not days:
        return []
    labels = lake.read(case.labels.dataset, days, [event.id, LABEL_TIMESTAMP, case.labels.name])
    wanted = labels.column(event.id)
    here = pc.is_in(wanted, pa.array([], pa.string()))
    for day in lake.between(event.dataset, shift(last, -2 * horizon), last, validated=True):
        ids = lake.read(event.dataset, [day], [event.id]).column(0).combine_chunks()
        here = pc.or_(here, pc.is_in(wanted, ids))
    alone = labels.filter(pc.invert(here))
    known_us = alone[1].cast(pa.int64())
    return list(zip(alone[0].to_pylist(), known_us.to_pylist(), alone[2].to_pylist(), strict=True))


def match_metadata(case: UseCase, found: Match) -> dict[str, Any]:
    """The number of matches for the UI, and examples of both forms of an id where nearly none match."""
    told: dict[str, Any] = {"labels": found.labels, f"of a known {Words.of(case).event}": found.matched}
    if found.labels and found.nearly_none and found.event_ids:
        told["ids in labels"] = _quoted(found.label_ids)
        told[f"ids in {case.event.dataset}"] = _quoted(found.event_ids)
        told[REMEDY] = (
            "make the feed write the ids in one form, then backfill from the first day of these labels"
        )
        told["likely cause"] = (
            f"{found.cause}: the two agree without it" if found.cause else "none found; compare the two forms"
        )
    return told


def _quoted(ids: Sequence[str]) -> str:
    return ", ".join(f'"{one}"' for one in ids)
