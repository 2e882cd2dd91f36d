"""Labels that are known at the time of their event. They are a sign that the feed leaks the future."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.engine.local.parallel import in_order
from feature_repo.lake.datasets import Lake
from feature_repo.times import MINUTE_US
from mlops_assets.core.data.streams import EVENT_TIMESTAMP, LABEL_TIMESTAMP
from mlops_assets.core.keys import REMEDY
from mlops_assets.core.use_case import UseCase
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import shift

BELIEVABLE = 0.05  # A few positives are noticed at once. More such labels have no time of their own.
FEWEST = 5  # Fewer early labels are chance.
AT_ONCE_US = MINUTE_US  # Some feeds round their times down to the minute.


@dataclass(frozen=True)
class Early:
    """The number of some labels, and how many became known at the time of their event."""

    labels: int
    early: int

    @property
    def share(self) -> float:
        """The share of early labels, from 0 to 1; 0 without labels."""
        return self.early / self.labels if self.labels else 0.0

    @property
    def leak(self) -> bool:
        """Whether the share of early labels is too large to be believed."""
        return self.early >= FEWEST and self.share > BELIEVABLE

    def metadata(self) -> dict[str, Any]:
        """The counts and the share for the UI, and what to do about a leak."""
        told: dict[str, Any] = {"labels": self.labels, "known at once": self.early, "share": self.share}
        if self.leak:
            told[REMEDY] = (
                "find out when these labels really became known, and give that time as label_timestamp or as"
                " delay_days in [source.labels]; then backfill from the first day of these labels. Until then"
                " features and training see answers that nobody has at that time"
            )
        return told


class EarlyLabels:
    """The early labels of a range of days.

    A label is compared with the events that arrived on its own day and on the day before. Other events cannot
    have an early label, because such a label arrives with its event.
    """

    def __init__(self, case: UseCase, lake: Lake, settings: Settings, made: Sequence[str]) -> None:
        self._case, self._lake, self._window = case, lake, settings.ingest.volume_window_days
        days = lake.between(case.labels.dataset, shift(made[0], -self._window), made[-1])
        self._counts = dict(zip(days, in_order(self._of_day, days), strict=True))

    def up_to(self, day: str) -> Early:
        """The count of the labels in the window of days that ends with `day`."""
        first = shift(day, -self._window)
        found = [counts for one, counts in self._counts.items() if first <= one <= day]
        return Early(sum(labels for labels, _ in found), sum(early for _, early in found))

    def _of_day(self, day: str) -> tuple[int, int]:
        """The number of labels of a day, and of its early labels."""
        lake, event = self._lake, self._case.event
        labels = lake.read(self._case.labels.dataset, [day], [event.id, LABEL_TIMESTAMP])
        days = lake.between(event.dataset, shift(day, -1), day)
        if not labels.num_rows or not days:
            return labels.num_rows, 0
        events = lake.read(event.dataset, days, [event.id, EVENT_TIMESTAMP])
        events = events.filter(pc.is_in(events.column(event.id), value_set=labels.column(event.id)))
        place = pc.index_in(labels.column(event.id), value_set=events.column(event.id).combine_chunks())
        happened = events.column(EVENT_TIMESTAMP).take(place)
        soon = pc.add(happened, pa.scalar(AT_ONCE_US, pa.duration("us")))
        early = pc.less_equal(labels.column(LABEL_TIMESTAMP), soon)
        return labels.num_rows, int(pc.sum(early).as_py() or 0)
