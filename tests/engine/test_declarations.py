"""Whatever is declared, and whatever happens: the lake, online state and the definition of a feature give the
same value, to the last bit.

250 declarations, always the same ones, in the suite; `EXAMPLES=5000 pytest tests/engine/test_declarations.py`
looks at others, and longer.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import Event, oracle

from feature_repo.engine.functions import FUNCTIONS
from feature_repo.engine.functions.base import Kind
from feature_repo.engine.local.from_lake import features_from_lake
from feature_repo.engine.local.windows import view_values
from feature_repo.engine.plan import Aggregate, FeaturePlan, ViewPlan
from feature_repo.lake.datasets import Lake
from feature_repo.online.sqlite.state import SqliteOnlineState

EXAMPLES = int(os.environ.get("EXAMPLES", "0"))
thorough = settings(
    max_examples=EXAMPLES or 250,
    derandomize=not EXAMPLES,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

SECOND = 1_000_000
MINUTE, HOUR = 60 * SECOND, 3_600 * SECOND
DAY = 24 * HOUR
START = 1_522_540_800_000_000  # 2018-04-01, a multiple of every hop
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TIMESTAMP = pa.timestamp("us", tz="UTC")
IDS = ("customer", "merchant")

Answer = dict[str, float | None]


@dataclass(frozen=True)
class Column:
    """One column of the stream: how the lake stores it, its declared scale, and the values that events of an
    example take turns with.
    """

    kind: pa.DataType
    scale: int | None
    values: tuple[Any, ...]

    @property
    def functions(self) -> tuple[str, ...]:
        kind: Kind = "number"
        if pa.types.is_string(self.kind):
            kind = "text"
        elif pa.types.is_boolean(self.kind):
            kind = "flag"
        elif pa.types.is_timestamp(self.kind):
            kind = "time"
        return tuple(name for name, function in FUNCTIONS.items() if kind in function.takes)


@dataclass(frozen=True)
class Question:
    ids: dict[str, str | None]
    at_us: int


@dataclass(frozen=True)
class Example:
    """`events` are in the order of arrival; `early` are questions that are asked after so many of them,
    whatever else is still to come.
    """

    views: tuple[ViewPlan, ...]
    columns: dict[str, Column]
    events: tuple[Event, ...]
    questions: tuple[Question, ...]
    early: dict[int, int]
    settle_every: int

    def expected(self, view: ViewPlan, question: Question, events: int | None = None) -> Answer:
        """The definition, over the first so many events."""
        known = [{**e, "key": e[view.entity]} for e in self.events[:events]]
        return as_floats(oracle(view, known, question.ids[view.entity], question.at_us))


# Declarations


durations = st.builds(
    lambda number, unit, odd: number * unit + odd,
    st.integers(1, 3),
    st.sampled_from([SECOND, MINUTE, HOUR, DAY]),
    st.sampled_from([0, 0, 0, -1, 1, 7]),
)


@st.composite
def numbers(draw: st.DrawFn) -> Column:
    scale = draw(st.integers(0, 4))
    kind = draw(st.sampled_from([pa.float64(), pa.decimal128(18, scale), pa.int64()]))
    if kind == pa.int64():
        declared = draw(st.sampled_from([None, scale]))
        most = (2**62 - 1) // 10 ** (declared or 0)
        return Column(
            kind,
            declared,
            draw(palettes(st.integers(-3, 3) | st.integers(-(2**40), 2**40) | st.integers(-most, most))),
        )
    whole = draw(palettes(st.integers(-3, 3) | st.integers(-(10**5), 10**5) | st.integers(-(10**14), 10**14)))
    exact = [None if n is None else Decimal(n).scaleb(-scale) for n in whole]
    return Column(
        kind,
        scale,
        tuple(exact if pa.types.is_decimal(kind) else [None if e is None else float(e) for e in exact]),
    )


def palettes(values: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(st.one_of(values, values, values, st.none()), min_size=1, max_size=4).map(tuple)


flags = st.builds(Column, st.just(pa.bool_()), st.sampled_from([None, 0]), palettes(st.booleans()))
times = st.builds(
    Column, st.just(TIMESTAMP), st.none(), palettes(st.integers(-3 * DAY, 3 * DAY).map(lambda us: START + us))
)
texts = st.builds(Column, st.just(pa.string()), st.none(), palettes(st.sampled_from(["x", "y", "z"])))
streams = st.fixed_dictionaries(
    {"first": numbers(), "second": numbers(), "flag": flags, "moment": times, "text": texts}
)


@st.composite
def views_over(draw: st.DrawFn, columns: dict[str, Column], name: str) -> ViewPlan:
    hop_us = draw(st.sampled_from([0, 0, SECOND, 7 * SECOND, MINUTE, 5 * MINUTE, HOUR, DAY]))
    choices = [(f, c) for c, column in columns.items() for f in column.functions] + [
        (name, "event_timestamp") for name, function in FUNCTIONS.items() if "event" in function.takes
    ]
    wanted = draw(st.lists(st.tuples(st.sampled_from(choices), durations), min_size=1, max_size=5))
    return ViewPlan(
        name,
        draw(st.sampled_from(IDS)),
        "stream",
        hop_us,
        tuple(
            Aggregate(f"{name}_{i}_{function}_{column}", column, function, window)
            for i, ((function, column), window) in enumerate(wanted)
        ),
        {n: c.scale for n, c in columns.items() if c.scale is not None},
        keys=IDS,
        ttl_us=draw(st.one_of(st.just(0), st.just(0), durations)),
    )


# Events around the edges of the windows


@st.composite
def examples(draw: st.DrawFn) -> Example:
    columns = draw(streams)
    views = tuple(draw(views_over(columns, name)) for name in ("one", "two")[: draw(st.integers(1, 2))])
    jitter = st.sampled_from([0, 0, -1, 1])
    near = st.sampled_from([0, SECOND, MINUTE, HOUR, DAY]) | st.integers(0, DAY)
    moments = draw(
        st.lists(st.builds(lambda after, j: START + after + j, near, jitter), min_size=1, max_size=4)
    )
    edges = [edge for at in moments for view in views for edge in edges_of(view, at)]
    farthest = max(v.reach_us for v in views)
    keys = st.fixed_dictionaries({name: st.sampled_from(["a", "a", "a", "b", None]) for name in IDS})

    events: list[Event] = []
    for _ in range(draw(st.integers(0, 8))):
        # A burst: one event, or some at a distance that may be nothing, so that keys get long histories.
        count, step = (
            draw(st.sampled_from([1, 2, 9, 20])),
            draw(st.sampled_from([0, 1, SECOND // 10, SECOND, 7 * MINUTE])),
        )
        ends = st.sampled_from(moments).map(lambda at, span=count * step: at - span)  # type: ignore[misc]
        first = draw(
            st.sampled_from(edges) | ends | st.integers(min(moments) - farthest, max(moments))
        ) + draw(jitter)
        known = st.sampled_from(moments).map(lambda at, since=first: max(at - since, 0))  # type: ignore[misc]
        late = draw(st.sampled_from([0, 0, 0, 0, 1, HOUR, DAY]) | known)
        ids, turn = draw(keys), draw(st.integers(0, 3))
        for n in range(count):
            values = {
                name: column.values[(turn + n) % len(column.values)] for name, column in columns.items()
            }
            events.append(
                {**ids, **values, "event_us": first + n * step, "created_us": first + n * step + late}
            )
    events.sort(key=lambda e: e["created_us"])

    asked_of = st.fixed_dictionaries(
        {n: st.sampled_from(["a", "a", "a", "a", "b", "nobody", None]) for n in IDS}
    )
    asked_at = st.builds(int.__add__, st.sampled_from(moments), jitter | st.sampled_from([SECOND, MINUTE]))
    questions = tuple(draw(st.lists(st.builds(Question, asked_of, asked_at), min_size=2, max_size=8)))
    early = draw(st.dictionaries(st.integers(0, len(events)), st.integers(0, len(questions) - 1), max_size=8))
    return Example(views, columns, tuple(events), questions, early, draw(st.integers(1, 4)))


def edges_of(view: ViewPlan, at_us: int) -> list[int]:
    """Where a window begins and ends, and the tiles around."""
    windows = [*(a.window_us for a in view.aggregates), *([view.ttl_us] if view.ttl_us else [])]
    lowers = [view.lower_us(at_us, w) for w in windows]
    return [at_us, *lowers, *(lower + view.hop_us for lower in lowers), *(at_us - w for w in windows)]


# The ways to a value


def as_floats(values: dict[str, Any]) -> Answer:
    """As a vector holds them."""
    return {name: None if v is None or v != v else float(v) for name, v in values.items()}


def table_of(example: Example, events: list[Event]) -> pa.Table:
    arrays = {name: pa.array([e[name] for e in events], pa.string()) for name in IDS}
    for name, column in example.columns.items():
        values = pa.array([e[name] for e in events], pa.int64() if column.kind == TIMESTAMP else column.kind)
        arrays[name] = values.cast(column.kind)
    for name, us in (("event_timestamp", "event_us"), ("created_timestamp", "created_us")):
        arrays[name] = pa.array([e[us] for e in events], pa.int64()).cast(TIMESTAMP)
    return pa.table(arrays)


@contextmanager
def lake_of(example: Example) -> Iterator[Lake]:
    """The events in a lake in memory, by the day of their arrival."""
    lake = Lake(f"memory://{uuid4().hex}")
    days: dict[str, list[Event]] = {}
    for e in example.events:
        days.setdefault((EPOCH + timedelta(microseconds=e["created_us"])).date().isoformat(), []).append(e)
    try:
        for day, events in days.items():
            lake.write("stream", day, table_of(example, events), validated=True)
        yield lake
    finally:
        if days:
            lake.fs.rm(lake.root.removeprefix("memory:/"), recursive=True)


def rows(values: dict[str, Any], number: int) -> list[Answer]:
    return [as_floats({name: column[i].item() for name, column in values.items()}) for i in range(number)]


class Online:
    """The state of an example's views, into which its events come one by one."""

    def __init__(self, example: Example) -> None:
        self.example, self.pushed, self.steps = example, 0, 0
        connection = sqlite3.connect(":memory:")
        SqliteOnlineState.create_tables(connection)
        features = tuple(a.name for v in example.views for a in v.aggregates)
        self.state = SqliteOnlineState(connection, FeaturePlan("service", example.views, (), features))

    def push(self, number: int) -> bool:
        given = self.example.events[number]
        values = {
            name: at(given[name]) if c.kind == TIMESTAMP else given[name]
            for name, c in self.example.columns.items()
        }
        event, event_us, created_us = (
            {**{n: given[n] for n in IDS}, **values},
            given["event_us"],
            given["created_us"],
        )
        return self.state.push("stream", str(number), event, event_us, created_us) is not None

    def take_next(self) -> None:
        assert self.push(self.pushed)
        assert not self.push(self.pushed), "its id is known"
        self.pushed += 1

    def ask(self, question: Question) -> None:
        """The answer is the definition over what has come so far."""
        expected: Answer = {}
        for view in self.example.views:
            expected |= self.example.expected(view, question, self.pushed)
        keys = {name: "nobody" if key is None else key for name, key in question.ids.items()}
        assert as_floats(self.state.aggregates(keys, question.at_us)) == expected
        self.steps += 1
        if self.steps % self.example.settle_every == 0:
            self.state.settle()


def at(moment_us: int | None) -> datetime | None:
    return None if moment_us is None else EPOCH + timedelta(microseconds=moment_us)


@thorough
@given(examples())
def test_any_declaration_gives_the_defined_values_from_rows_and_from_the_lake(example: Example) -> None:
    at_us = np.array([q.at_us for q in example.questions], np.int64)
    with lake_of(example) as lake:
        for view in example.views:
            keys = pa.chunked_array([pa.array([q.ids[view.entity] for q in example.questions], pa.string())])
            expected = [example.expected(view, question) for question in example.questions]
            assert (
                rows(view_values(view, table_of(example, list(example.events)), keys, at_us), len(at_us))
                == expected
            )
            assert rows(features_from_lake(lake, view, keys, at_us), len(at_us)) == expected
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(
                    "feature_repo.engine.local.from_lake.ROWS_AT_ONCE", 20
                )  # as if they did not fit into memory
                assert rows(features_from_lake(lake, view, keys, at_us), len(at_us)) == expected


@thorough
@given(examples())
def test_any_declaration_gives_the_defined_values_online_while_events_arrive(example: Example) -> None:
    online = Online(example)
    for question in sorted(example.questions, key=lambda q: q.at_us):
        while (
            online.pushed < len(example.events)
            and example.events[online.pushed]["created_us"] <= question.at_us
        ):
            if online.pushed in example.early:
                online.ask(example.questions[example.early[online.pushed]])
            online.take_next()
        online.ask(question)
    while online.pushed < len(example.events):
        online.take_next()
    for question in example.questions * 2:  # the second time from what settled after the first
        online.ask(question)
