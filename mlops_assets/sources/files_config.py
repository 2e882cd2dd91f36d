"""The table `[source]` of `kind = "files"`, with the names that a use case declares for its columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model, field_validator, model_validator

from mlops_assets.core.config_tables import nearest
from mlops_assets.core.data.streams import Stream, event_stream, feed_stream, label_stream
from mlops_assets.core.data.values.value_rules import USUAL, Epoch, Kind, Rules
from mlops_assets.sources.column_layout import Composed, Origin, Since
from serving.contract.subject import BadSubject, Event, Feed, Labels, Subject

LONGEST_DELAY = 3_650  # Days until a label becomes known. A larger number is in another unit.

Arrival = Literal["rows", "file"]


class FlagWords(BaseModel):
    """Further words of a feed for true and for false, in addition to 1 and 0, true and false, yes and no."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    true: tuple[str, ...] = ()
    false: tuple[str, ...] = ()


class TextConfig(BaseModel):
    """The form of values in a feed, where it differs from the usual form.

    A key that is not set has its usual value. For labels and further feeds it has the value of `[source]`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    missing: tuple[str, ...] | None = None
    decimal: str | None = None
    thousands: str | None = None
    timezone: str | None = None
    epoch: Epoch | None = None
    flags: FlagWords | None = None
    encoding: str | None = None

    @field_validator("encoding")
    @classmethod
    def _is_an_encoding(cls, value: str | None) -> str | None:
        try:
            if value is not None:
                "".encode(value)  # Some codecs of Python are no text encodings.
            return value
        except LookupError as error:
            raise ValueError(
                f"{value!r} is no text encoding; usual ones are utf-8, cp1252, latin-1 and utf-16"
            ) from error

    @property
    def text(self) -> dict[str, Any]:
        """The keys that are set, with their values."""
        values = {name: getattr(self, name) for name in TextConfig.model_fields}
        return {name: value for name, value in values.items() if value is not None}

    def rules(self, section: str, base: Rules = USUAL) -> Rules:
        """The rules of `base` with the keys that are set here. Errors name the `section`."""
        said = {field.name for field in fields(Rules)}
        changes: dict[str, Any] = {name: value for name, value in self.text.items() if name in said}
        words: dict[str, Any] = {"true": self.flags.true, "false": self.flags.false} if self.flags else {}
        return replace(base, **changes, **words, section=section)


class LabelsConfig(TextConfig):
    """The place of the labels, and the time at which they become known.

    Labels are columns of the events' own files, or have files of their own (`path`). With `delay_days` a
    label becomes known that long after its event. `negatives` says whether a 0 in the events' own files is a
    label. Where a feed reports positives only, a 0 means that nothing is reported. `arrival` applies to label
    files. Labels in the events' files arrive with the events.

    In the configuration, `event_id`, `label` and `negatives` have the names of the use case: the event's id,
    the label's column, and the word for a negative.
    """

    stream: ClassVar[Stream]
    events: ClassVar[str]  # the dataset of the events, for messages

    path: str | None = Field(default=None, min_length=1)
    event_id: Origin = ""
    label: str | None = None
    label_timestamp: Origin | None = None
    delay_days: float | None = Field(default=None, ge=0, le=LONGEST_DELAY)
    negatives: bool = False
    arrival: Arrival = "rows"

    @property
    def origins(self) -> dict[str, Any]:
        """The place in the feed by canonical column, for the columns that are set."""
        said = zip(self.stream.kinds, (self.event_id, self.label, self.label_timestamp), strict=True)
        return {name: origin for name, origin in said if origin}

    @model_validator(mode="after")
    def _says_when(self) -> LabelsConfig:
        own = f"the {_of(self.events)} own files"
        if self.path is None and (self.delay_days is None) == (self.label_timestamp is None):
            raise ValueError(f"labels in {own} need one of `delay_days` and `label_timestamp`")
        if self.path is not None and self.delay_days is not None:
            raise ValueError(
                "labels with a `path` have times of their own: `delay_days` is for labels in the"
                f" {_of(self.events)} files"
            )
        if self.path is None and (wrong := [*self.text, *(["arrival"] if self.arrival != "rows" else [])]):
            raise ValueError(
                f"`{wrong[0]}` is for label files of their own (`path`); labels in the"
                f" {_of(self.events)} files follow [source]"
            )
        if isinstance(self.event_id, Since):
            raise ValueError(f"`{self._id_name}` is no time: it is a name, or composed of several columns")
        if isinstance(self.label_timestamp, Composed):
            raise ValueError(
                "a time cannot be composed of columns: `label_timestamp` is a name, or a number of units"
                " since a moment"
            )
        return self

    @property
    def _id_name(self) -> str:
        return next(iter(self.stream.kinds))


class FeedConfig(TextConfig):
    """The files of a further feed. The keys have the meaning of those in `[source]`."""

    stream: ClassVar[Stream]

    path: str = Field(min_length=1)
    columns: dict[str, Origin] = Field(default_factory=dict)
    arrival: Arrival = "rows"

    @model_validator(mode="after")
    def _names_known_columns(self) -> FeedConfig:
        _check_columns(self.columns, self.stream.kinds)
        return self


class FilesConfig(TextConfig):
    """The files of the events, of their labels, and of further feeds.

    `columns` maps canonical names to the names in the feed. A column that is not listed has its canonical
    name. With `arrival = "file"` the day in a file's name is the arrival day of all its rows. `encoding`
    applies to text without a BOM.
    """

    stream: ClassVar[Stream]
    event: ClassVar[Event]
    declared_labels: ClassVar[Labels]
    declared_feeds: ClassVar[tuple[Feed, ...]]

    kind: Literal["files"] = "files"
    path: str = Field(min_length=1)
    columns: dict[str, Origin] = Field(default_factory=dict)
    labels: LabelsConfig | None = None
    arrival: Arrival = "rows"

    @model_validator(mode="after")
    def _names_known_columns(self) -> FilesConfig:
        _check_columns(self.columns, self.stream.kinds)
        return self

    @model_validator(mode="after")
    def _has_one_id(self) -> FilesConfig:
        name = self.event.id
        own = self.columns.get(name, name)
        if self.labels and self.labels.path is None and self.labels.event_id not in (name, own):
            raise ValueError(
                f"labels: `{name}` is for label files of their own (`path`); those in the"
                f" {_of(self.event.dataset)} files have the id of [source.columns]"
            )
        return self

    @model_validator(mode="after")
    def _has_rules(self) -> FilesConfig:
        _ = self.row_rules, self.label_rules, [self.feed_rules(name) for name in self.further]
        return self

    @property
    def further(self) -> dict[str, FeedConfig]:
        """The files of the further feeds, by the feed's name."""
        tables = vars(self).get("feeds")
        return {feed.name: getattr(tables, feed.name) for feed in self.declared_feeds}

    @property
    def row_rules(self) -> Rules:
        """The rules of the events' files."""
        return self.rules("[source]")

    @property
    def label_rules(self) -> Rules:
        """The rules of the labels: those of the events, changed by `[source.labels]`."""
        if self.labels is None or self.labels.path is None:
            return self.row_rules
        try:
            return self.labels.rules("[source.labels]", self.row_rules)
        except ValueError as error:
            raise ValueError(f"labels: {error}") from error

    def feed_rules(self, name: str) -> Rules:
        """The rules of a further feed: those of the events, changed by the feed's own table."""
        try:
            return self.further[name].rules(f"[source.feeds.{name}]", self.row_rules)
        except ValueError as error:
            raise ValueError(f"feeds.{name}: {error}") from error


def files_config(subject: Subject) -> type[FilesConfig]:
    """The class of `[source]` for a use case."""
    return _files_config(subject.event, subject.labels, subject.feeds)


def labels_config(subject: Subject) -> type[LabelsConfig]:
    """The class of `[source.labels]` for a use case."""
    return _labels_config(subject.event, subject.labels)


@cache
def _files_config(event: Event, labels: Labels, feeds: tuple[Feed, ...]) -> type[FilesConfig]:
    added: dict[str, Any] = {"labels": (_labels_config(event, labels) | None, None)}
    if feeds:
        tables: dict[str, Any] = {feed.name: (_feed_config(feed), ...) for feed in feeds}
        base = create_model("FeedsConfig", __config__=TextConfig.model_config, **tables)
        added["feeds"] = (base, ...)
    made = create_model("FilesConfig", __base__=FilesConfig, __doc__=FilesConfig.__doc__, **added)
    made.stream = event_stream(event)
    made.event, made.declared_labels, made.declared_feeds = event, labels, feeds
    return made


@cache
def _labels_config(event: Event, labels: Labels) -> type[LabelsConfig]:
    both = labels.silence == "unknown"  # A negative is a label where silence is unknown.
    names = (event.id, labels.name, labels.negative.replace(" ", "_"))
    if taken := [name for name in names if name in LabelsConfig.model_fields]:
        raise BadSubject(f"Labels: {taken[0]!r} is a key of [source.labels]; choose another name")
    made = create_model(
        "LabelsConfig",
        __base__=LabelsConfig,
        __doc__=LabelsConfig.__doc__,
        event_id=(Origin, Field(default=event.id, alias=names[0])),
        label=(str | None, Field(default=None, alias=names[1])),
        negatives=(bool, Field(default=both, alias=names[2])),
    )
    made.stream = label_stream(event, labels)
    made.events = event.dataset
    return made


def _feed_config(feed: Feed) -> type[FeedConfig]:
    made = create_model("FeedConfig", __base__=FeedConfig, __doc__=FeedConfig.__doc__)
    made.stream = feed_stream(feed)
    return made


def _check_columns(columns: Mapping[str, Any], kinds: Mapping[str, Kind]) -> None:
    """`ValueError` where a column is not one of `kinds`, or has a form that its kind cannot have."""
    if unknown := sorted(set(columns) - set(kinds)):
        told = "; ".join(f"unknown column {name!r}{nearest(name, list(kinds))}" for name in unknown)
        raise ValueError(f"{told}; there are {', '.join(kinds)}")
    for name, origin in columns.items():
        if isinstance(origin, Since) and kinds[name] != "time":
            raise ValueError(f"`columns.{name}` is no time; name the feed's column")
        if isinstance(origin, Composed) and kinds[name] != "id":
            raise ValueError(f"`columns.{name}` is no id, and cannot be composed; name the feed's column")


def _of(plural: str) -> str:
    """The possessive of a dataset's name."""
    return f"{plural}'" if plural.endswith("s") else f"{plural}'s"
