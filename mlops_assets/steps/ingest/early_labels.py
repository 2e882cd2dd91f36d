"""Labels that are known at their event's own time: a sign that the feed tells what only the future knows."""

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

BELIEVABLE = 0.05  # A few are noticed on the spot. More are labels without a time of their own.
FEWEST = 5  # Fewer early labels are chance.
AT_ONCE_US = MINUTE_US  # Some feeds cut their times to the minute.


@dataclass(frozen=True)
class Early:
    """How many of some labels became known at the time of their event."""

    labels: int
    early: int

    @property
    def share(self) -> float:
        """From 0 to 1; 0 where there is no label."""
        return self.early / self.labels if self.labels else 0.0

    @property
    def leak(self) -> bool:
        """Whether there are more than one can believe."""
        return self.early >= FEWEST and self.share > BELIEVABLE

    def metadata(self) -> dict[str, Any]:
        """For a person: the count, the share, and what to do where there are too many."""
        told: dict[str, Any] = {"labels": self.labels, "known at once": self.early, "share": self.share}
        if self.leak:
            told[REMEDY] = (
                "find out when these labels really became known, and give that as label_timestamp or as"
                " delay_days in [source.labels]; then backfill from the first day of these labels. Until then"
                " features and training see answers that nobody has at that time"
            )
        return told


class EarlyLabels:
    """The early labels of a range of days, counted once.

    A label is compared with the events that arrived on its own day and on the day before. An event that
    arrived later or earlier is not counted, for a label at its own time comes with it.
    """

    def __init__(self, case: UseCase, lake: Lake, settings: Settings, made: Sequence[str]) -> None:
        self._case, self._lake, self._window = case, lake, settings.ingest.volume_window_days
        days = lake.between(case.labels.dataset, shift(made[0], -self._window), made[-1])
        self._counts = dict(zip(days, in_order(self._of_day, days), strict=True))

    def up_to(self, day: str) -> Early:
        """The labels of the days of the window that ends with `day`."""
        first = shift(day, -self._window)
        found = [counts for one, counts in self._counts.items() if first <= one <= day]
        return Early(sum(labels for labels, _ in found), sum(early for _, early in found))

    def _of_day(self, day: str) -> tuple[int, int]:
        """All labels of a day, and those that are early."""
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
