"""The subject of a use case: its event, labels, decisions and feeds, and how results are sliced."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from serving.contract.subject.decisions import Costs, Decisions
from serving.contract.subject.event import Event, Feed, Key, Number, column_from_dict
from serving.contract.subject.labels import Labels
from serving.contract.subject.problems import BadSubject, check_column, check_name, check_once


@dataclass(frozen=True)
class Bands:
    """Slices by a Number of the event, cut at `edges` (ascending)."""

    column: str
    edges: tuple[float, ...]

    def __post_init__(self) -> None:
        ascending = list(self.edges) == sorted(set(self.edges))
        if not (self.edges and ascending and all(map(math.isfinite, self.edges))):
            raise BadSubject(f"Bands {self.column!r}: edges = {self.edges}: at least one number, ascending")


@dataclass(frozen=True)
class Known:
    """Slices by a key of the event: keys that the training days had seen, and new keys.

    With `positives` the known keys are two slices: keys with a positive in the training days, and keys
    without one.
    """

    key: str
    positives: bool = False


@dataclass(frozen=True)
class Inspected:
    """All events of a day that share `key`, where a team looks at them together.

    `word` is the name of the key in reports, and begins the name of the metric, as in `card_precision_at_k`.
    """

    key: str
    word: str

    def __post_init__(self) -> None:
        check_name("Inspected: word", self.word)


Slice = Bands | Known


@dataclass(frozen=True)
class Subject:
    """What serving needs to know of a use case.

    Raises `BadSubject` with the place and the value of what cannot be meant.
    """

    name: str
    event: Event
    labels: Labels
    decisions: Decisions
    score: str = "score"  # The score's name on the native wire and in the log.
    feeds: tuple[Feed, ...] = ()
    slices: tuple[Slice, ...] = ()
    # Keys along which luck comes in bursts. The events of such a key are resampled together.
    clusters: tuple[str, ...] = ()
    inspected: Inspected | None = None  # Without it precision at k is not measured.

    def __post_init__(self) -> None:
        check_name("the use case", self.name)
        check_column("score", self.score)
        check_once(
            "feeds and datasets", (self.event.dataset, self.labels.dataset, *(f.name for f in self.feeds))
        )
        if self.labels.name in self.event.names:
            raise BadSubject(
                f"Labels: name: {self.labels.name!r} is a column of the event; a label is known later"
            )
        if self.score in (*self.event.names, self.labels.name):
            raise BadSubject(f"score: {self.score!r} is a column of the event or its label")
        if self.labels.name == self.event.time:
            raise BadSubject(f"Labels: name: {self.labels.name!r} is a column of the verdicts")
        if self.decisions.value is not None and self.decisions.value not in self._numbers:
            raise BadSubject(f"Decisions: value: {self.decisions.value!r} is no Number of the event")
        if unknown := [one for one in self.labels.withheld_by if one not in set(self.decisions)]:
            raise BadSubject(f"Labels: withheld_by: {unknown[0]!r} is none of {', '.join(self.decisions)}")
        keys = {key.name for key in self.event.keys}
        for one in self.slices:
            if isinstance(one, Bands) and one.column not in self._numbers:
                raise BadSubject(f"slices: Bands: {one.column!r} is no Number of the event")
            if isinstance(one, Known) and one.key not in keys:
                raise BadSubject(f"slices: Known: {one.key!r} is no key of the event")
        if unknown := [one for one in self.clusters if one not in keys]:
            raise BadSubject(f"clusters: {unknown[0]!r} is no key of the event")
        if self.inspected is not None and self.inspected.key not in keys:
            raise BadSubject(f"inspected: {self.inspected.key!r} is no key of the event")

    @property
    def _numbers(self) -> set[str]:
        return {column.name for column in self.event.columns if isinstance(column, Number)}

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; `Subject.from_dict` gives an equal subject."""
        values = asdict(self)
        values["labels"]["maturity"] = self.labels.maturity.total_seconds()
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Subject:
        """Raises `BadSubject`, `KeyError` or `TypeError` for what no `to_dict` gave."""
        event, labels, decisions = values["event"], values["labels"], values["decisions"]
        costs = decisions["costs"]
        return cls(
            name=values["name"],
            event=Event(**{**event, **_parts(event), "believable": tuple(event["believable"])}),
            labels=Labels(
                **{
                    **labels,
                    "maturity": timedelta(seconds=labels["maturity"]),
                    "withheld_by": tuple(labels["withheld_by"]),
                }
            ),
            decisions=Decisions(**{**decisions, "costs": Costs(**costs) if costs else None}),
            score=values["score"],
            feeds=tuple(
                Feed(**{**feed, **_parts(feed), "id": tuple(feed["id"])}) for feed in values["feeds"]
            ),
            slices=tuple(_slice(one) for one in values["slices"]),
            clusters=tuple(values["clusters"]),
            inspected=Inspected(**inspected) if (inspected := values.get("inspected")) else None,
        )


def _parts(stream: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "keys": tuple(Key(**key) for key in stream["keys"]),
        "columns": tuple(column_from_dict(column) for column in stream["columns"]),
    }


def _slice(values: Mapping[str, Any]) -> Slice:
    if "edges" in values:
        return Bands(values["column"], tuple(values["edges"]))
    return Known(values["key"], values.get("positives", False))
