"""The lake together with the days that only the service's log has so far.

A day comes into the lake once it is over. A decision of today rests on the events of today.
"""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.lake.datasets import Lake
from feature_repo.lake.layers import LayeredLake
from feature_repo.times import day_of
from mlops_assets.core.data.streams import CREATED_TIMESTAMP, Stream
from mlops_assets.core.data.verdict_history import verdict_columns
from mlops_assets.core.keys import PREDICTION_LOG, VERDICTS
from mlops_assets.core.use_case import UseCase
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import day_range, shift, to_table, write_days
from mlops_assets.steps.ingest.delivery import from_log
from mlops_assets.steps.ingest.sorted_rows import Arrivals, sort_day
from mlops_assets.steps.ingest.verdict_making import verdicts_of
from mlops_assets.steps.monitoring.served_days import write_log
from serving.store.base import ServingLog


@contextmanager
def lake_and_log(
    case: UseCase, lake: Lake, log: ServingLog, settings: Settings, first: str, last: str
) -> Iterator[Lake]:
    """The lake, with every day up to `last` that the log has and the lake does not have.

    The steps of the ingest make these days, in a folder that is removed afterwards. The lake itself does not
    change. A day that is not over by the service's clock comes from the log, because the lake cannot have all
    of it. Verdicts are made for the days from `first` on.
    """
    with tempfile.TemporaryDirectory(prefix="mlops-replay-") as folder:
        both = LayeredLake(lake, Lake(folder))
        _Days(case, both, log, settings, first, last).make()
        yield both


class _Days:
    """The days that come from the log, and the verdicts that follow from them."""

    def __init__(
        self, case: UseCase, lake: Lake, log: ServingLog, settings: Settings, first: str, last: str
    ) -> None:
        self._case, self._lake, self._log, self._settings = case, lake, log, settings
        self._first, self._last = first, last
        self._open = day_of(log.position().clock_us)

    def make(self) -> None:
        """Make what the lake lacks. The log comes first, because verdicts depend on decisions."""
        made = self._lacking(PREDICTION_LOG, self._served(self._case.event.dataset))
        if made:
            write_log(self._case, self._lake, self._log, made)
        for stream in self._case.streams(self._settings.bounds):
            days = self._lacking(stream.dataset, self._served(stream.dataset))
            if stream.dataset == self._case.labels.dataset and not self._has(stream.dataset, self._last):
                days = sorted({*days, self._last})  # Verdicts need a day of labels, even one without rows.
            self._make_stream(stream, days)
            made += days
        self._make_verdicts(min(made, default=self._last))

    def _served(self, dataset: str) -> list[str]:
        return [day for day in self._log.served_days(self._case, dataset) if day <= self._last]

    def _lacking(self, dataset: str, days: Iterable[str]) -> list[str]:
        """Those of the days that the lake does not have, or does not have all of, in order."""
        wanted = sorted(set(days))
        if not wanted:
            return []
        there = set(self._lake.between(dataset, wanted[0], wanted[-1], validated=True))
        return [day for day in wanted if day not in there or day == self._open]

    def _has(self, dataset: str, day: str) -> bool:
        return bool(self._lake.between(dataset, day, day, validated=True))

    def _make_stream(self, stream: Stream, days: Sequence[str]) -> None:
        if not days:
            return
        earliest = shift(days[0], -self._settings.ingest.horizon_days)
        known = Arrivals(self._lake, stream, earliest, shift(days[-1], -1)) if stream.once else None
        for day in days:
            self._lake.write(stream.raw, day, from_log(self._case, self._log, stream, day))
            accepted = sort_day(self._lake, self._settings, stream, day, known).accepted
            self._lake.write(stream.dataset, day, to_table(accepted, stream.columns), validated=True)

    def _make_verdicts(self, changed: str) -> None:
        """The verdicts of the days after those that the lake has, and from the day `changed` on."""
        there = self._lake.between(VERDICTS, self._first, self._last)
        since = min(changed, shift(there[-1], 1) if there else self._first)
        days = self._lacking(VERDICTS, day_range(max(since, self._first), self._last))
        if not days:
            return
        known = verdicts_of(self._case, self._lake, self._settings, days)
        rows = to_table(known, verdict_columns(self._case))
        on_day = pc.strftime(rows.column(CREATED_TIMESTAMP), format="%Y-%m-%d")
        write_days(
            self._lake, VERDICTS, rows.filter(pc.is_in(on_day, pa.array(days))), CREATED_TIMESTAMP, days
        )
