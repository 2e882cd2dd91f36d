"""The raw rows of a day sorted into accepted, duplicate and quarantined, and days with an odd volume."""

from collections.abc import Sequence
from datetime import date
from statistics import median

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.engine.local.parallel import in_order
from feature_repo.lake.datasets import Lake, Manifest
from mlops_assets.core.data.streams import Stream
from mlops_assets.core.data.validation import Known, Validation, validate
from mlops_assets.core.use_case import UseCase
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import shift, to_frame

DAYS_TO_COMPARE = 3  # With fewer days before it, a day has no usual volume.


class Arrivals:
    """The accepted keys of a stream by day, read once for a range of days."""

    def __init__(self, lake: Lake, stream: Stream, first: str, last: str) -> None:
        self._dataset, self._key = stream.dataset, list(stream.key)
        days = lake.between(stream.dataset, first, last)
        tables = in_order(lambda day: lake.read(stream.dataset, [day], self._key).select(self._key), days)
        self._rows = dict(zip(days, tables, strict=True))
        self._types = pa.schema([stream.columns.field(name) for name in stream.key])

    def add(self, day: str, accepted: pd.DataFrame) -> None:
        """Add the accepted rows of a further day."""
        columns = [pa.array(accepted[name], self._types.field(name).type) for name in self._key]
        self._rows[day] = pa.table(columns, names=self._key)

    def among(self, raw: pa.Table, first: str, last: str) -> Known:
        """The keys that were accepted from `first` to `last`, both included.

        A key of one column is among them only if `raw` has it.
        """
        found = [rows for day, rows in self._rows.items() if first <= day <= last]
        every = pa.concat_tables([self._types.empty_table(), *found])
        if len(self._key) > 1:
            return pd.MultiIndex.from_frame(every.to_pandas())
        accepted = every.column(0)
        wanted = raw.column(self._key[0]).drop_null()
        return set(accepted.filter(pc.is_in(accepted, value_set=wanted)).to_pylist())


def earlier_arrivals(lake: Lake, settings: Settings, stream: Stream, first: str) -> Arrivals | None:
    """The accepted keys of the days before `first`. None for a stream that may repeat a key."""
    if not stream.once:
        return None
    return Arrivals(lake, stream, shift(first, -settings.ingest.horizon_days), shift(first, -1))


def sort_day(
    lake: Lake, settings: Settings, stream: Stream, day: str, arrivals: Arrivals | None
) -> Validation:
    """Sort the raw rows of a day.

    With `arrivals`, a key of an earlier day is not accepted again, and the accepted keys are added to
    `arrivals`. A label is accepted before its event arrives. Verdicts match the two once both have arrived.
    """
    table = lake.read(stream.raw, [day])
    horizon = shift(day, -settings.ingest.horizon_days)
    known = arrivals.among(table, horizon, shift(day, -1)) if arrivals else None
    outcome = validate(
        to_frame(table),
        stream.schema(date.fromisoformat(day)),
        key=stream.key,
        order=stream.order,
        prefer=stream.prefer,
        known=known,
    )
    if arrivals:
        arrivals.add(day, outcome.accepted)
    return outcome


def odd_volumes(
    case: UseCase, lake: Lake, settings: Settings, dataset: str, written: Sequence[Manifest]
) -> dict[str, str]:
    """The days with an odd number of rows, each with a sentence.

    A day is odd without rows, or far from the median of the days before it. A stream has rows from its first
    day on. Only labels begin later, with the first report.
    """
    window_days, ingest = settings.ingest.volume_window_days, settings.ingest
    window = lake.between(dataset, shift(written[0].partition, -window_days), written[-1].partition)
    known = {m.partition: m.rows for m in lake.manifests(dataset, window)}
    odd = {}
    for manifest in written:
        day, rows = manifest.partition, manifest.rows
        before = [n for one, n in known.items() if shift(day, -window_days) <= one < day]
        usual = median(before) if len(before) >= DAYS_TO_COMPARE else 0
        expected = any(before) or (dataset != case.labels.dataset and not before)
        if not rows and expected:
            odd[day] = f"{day}: no rows"
        elif usual and not ingest.min_volume_ratio * usual <= rows <= ingest.max_volume_ratio * usual:
            odd[day] = f"{day}: {rows:,} rows where {usual:,.0f} are usual"
    return odd
