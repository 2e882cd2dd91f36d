"""What the service put on record, as assets read it: decisions, labels, and what was measured of each
version.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyarrow as pa
from dagster import ConfigurableResource

from feature_repo.times import to_us
from serving.contract.subject import Feed, Subject
from serving.store.sqlite.decision_log import read_decisions, read_feed, read_labels, served_days
from serving.store.sqlite.measured import Measured, read_measured


@dataclass(frozen=True)
class ServingLog:
    """The reading half of a serving store. A store that no service ever made reads as empty."""

    file: Path

    def decisions(self, day: str, subject: Subject | None = None) -> pa.Table:
        """The decisions that arrived on a day (UTC, of `created_timestamp`), in commit order.

        `subject` gives the columns; by default the log's own.
        """
        return read_decisions(self.file, day, subject)

    def labels(self, day: str) -> pa.Table:
        """The labels of a day (UTC, of `label_timestamp`), in commit order."""
        return read_labels(self.file, day)

    def feed(self, feed: Feed, day: str) -> pa.Table:
        """The events of a further feed that arrived on a day (UTC, of `created_timestamp`)."""
        return read_feed(self.file, feed, day)

    def days_with(self, what: str, days: Collection[str] | None = None) -> set[str]:
        """The arrival days, of `days` or of all, on which the service took at least one row.

        `what` is `events`, `labels` or the name of a further feed.
        """
        return served_days(self.file, what, days)

    def measured(self, version: str, since: datetime) -> Measured:
        """What was measured of a version from a moment on."""
        return read_measured(self.file, version, to_us(since))


class ServingLogResource(ConfigurableResource[ServingLog]):
    """The log of the service in the file `path`."""

    path: str

    def open(self) -> ServingLog:
        """The log; nothing is read yet."""
        return ServingLog(Path(self.path))
