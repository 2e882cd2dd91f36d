"""A use case: the frozen value that a folder of declarations gives to the machinery.

The machinery derives schemas, sources, assets and checks from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from importlib.util import resolve_name
from typing import Any

from mlops_assets.core.data.base import Source
from mlops_assets.core.data.streams import Highest, Stream, event_stream, label_stream, streams_of
from mlops_assets.core.keys import PLATFORM_ASSETS, quarantined, raw
from serving.contract.bounds import Bounds
from serving.contract.subject import BadSubject, Subject
from serving.contract.subject.problems import check_once, check_tuple

# The pydantic class of the table `[source]`, and what opens a source of it.
SourceKind = tuple[type[Any], Callable[[Any], Source]]
FILES = "files"


@dataclass(frozen=True)
class FeatureView:
    """One feature view as the graph shows it. `stream` is the lake dataset that it aggregates."""

    name: str
    stream: str
    description: str


@dataclass(frozen=True, kw_only=True)
class UseCase(Subject):
    """The subject, and what only the code location needs. No value opens a file or imports a heavy library.

    `declarations` is the package with the Feast objects. A leading dot makes it relative to `package`, the
    package of the use case. Drift is measured on the features `drift_columns`. `ranges` has the lowest and
    the highest possible value of a feature, or the name of the event's Number with the same range. `sources`
    are further kinds of source, by their name in `[source] kind`. Raises `BadSubject` for declarations that
    contradict each other.
    """

    description: str
    owner: str
    declarations: str
    feature_service: str
    views: tuple[FeatureView, ...]
    drift_columns: tuple[str, ...]
    ranges: Mapping[str, tuple[float, float] | str]
    sources: Mapping[str, SourceKind] = field(default_factory=dict)
    package: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.views:
            raise BadSubject("views: there is none; declare at least one FeatureView")
        check_tuple("views", self.views, FeatureView)
        self._check_assets()
        streams = self.datasets
        for view in self.views:
            if view.stream not in streams:
                raise BadSubject(
                    f"views: {view.name}: stream {view.stream!r} is none of {', '.join(streams)}"
                )
        for name, range_ in self.ranges.items():
            self._check_range(name, range_)
        if self.labels.maturity % timedelta(days=1):
            raise BadSubject(
                f"Labels: maturity = {self.labels.maturity}: verdicts mature by days; use whole days"
            )
        if self.declarations.startswith(".") and not self.package:
            raise BadSubject(
                f"declarations = {self.declarations!r} is in the package of the use case, and package is"
                " empty; give package=__package__"
            )
        if FILES in self.sources:
            raise BadSubject(f"sources: {FILES!r} is the platform's own kind; choose another name")

    def _check_assets(self) -> None:
        """Every stream and every view is an asset, and two assets cannot have one name."""
        streams = (self.event.dataset, self.labels.dataset, *(feed.name for feed in self.feeds))
        check_once(
            "names of assets",
            (
                *PLATFORM_ASSETS,
                *(name for stream in streams for name in (stream, raw(stream), quarantined(stream))),
                *(view.name for view in self.views),
            ),
        )

    def _check_range(self, name: str, range_: tuple[float, float] | str) -> None:
        if isinstance(range_, str):
            self.event.number(range_)  # Raises BadSubject for an unknown Number.
        elif len(range_) != 2:
            raise BadSubject(f"ranges: {name}: {range_!r} is no pair of the lowest and the highest value")
        elif not range_[0] <= range_[1]:
            raise BadSubject(
                f"ranges: {name}: {range_[0]:g} is above {range_[1]:g}; give the lowest value first"
            )

    @property
    def feast_package(self) -> str:
        """The full name of the package with the Feast objects."""
        return resolve_name(self.declarations, self.package)

    @property
    def named_features(self) -> dict[str, list[str]]:
        """The names of views and features, by the field that names them."""
        return {
            "views": [view.name for view in self.views],
            "drift_columns": list(self.drift_columns),
            "ranges": list(self.ranges),
        }

    @property
    def subject(self) -> Subject:
        """The part of the use case that travels in the release bundle."""
        return Subject(**{field.name: getattr(self, field.name) for field in fields(Subject)})

    @property
    def datasets(self) -> tuple[str, ...]:
        """The datasets of the lake that a feature view may aggregate."""
        return (self.event.dataset, "verdicts", *(feed.name for feed in self.feeds))

    @property
    def events(self) -> Stream:
        """The stream of the events, with the declared ranges."""
        return event_stream(self.event)

    @property
    def label_rows(self) -> Stream:
        """The stream of the labels."""
        return label_stream(self.event, self.labels)

    def streams(self, bounds: Bounds) -> tuple[Stream, ...]:
        """All streams, events first and labels second, with the bounds of a configuration."""
        return streams_of(self, self.highest(bounds))

    def highest(self, bounds: Bounds) -> Highest:
        """The highest believable value of each believable Number under `bounds`."""
        return {
            name: bounds.highest.get(name, self.event.number(name).high) for name in self.event.believable
        }

    def ranges_within(self, bounds: Bounds) -> dict[str, tuple[float, float]]:
        """The lowest and highest possible value of each feature with a range, under `bounds`."""
        highest = self.highest(bounds)

        def range_of(column: str) -> tuple[float, float]:
            number = self.event.number(column)
            return number.low, highest.get(column, number.high)

        return {name: range_of(of) if isinstance(of, str) else of for name, of in self.ranges.items()}
