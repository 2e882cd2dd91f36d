"""What `serving.store.base` promises, asked of every store."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from parcel_kit import PARCELS, parcels_plan
from serving_kit import DAY_US, MINUTE_US, START_US, fraud_service_plan

from feature_repo.engine.plan import FeaturePlan
from serving.contract.before_subjects import BEFORE
from serving.contract.records import Answer, Reason
from serving.contract.subject import Number
from serving.store.base import (
    BadStore,
    DecisionRow,
    FeedEventRow,
    LabelRow,
    Position,
    ServingLog,
    ServingStore,
    StateRebuild,
    StoreBusy,
    StoreError,
)
from serving.store.log_columns import decision_columns, feed_columns, label_columns, receipt_columns
from serving.store.opening import serving_log, serving_store, state_rebuild

(ROADS,) = PARCELS.feeds
FIRST, SECOND = "2018-04-01", "2018-04-02"
STREAM = "parcels"
READ, MADE = {"parcels.route": 7}, {"parcels.route": 8, "parcels.carrier": 3}


@dataclass(frozen=True)
class Kind:
    """How a store of one kind is opened in a folder: to write, to read, to rebuild its state; and how it is
    made one of its first version.
    """

    write: Callable[[Path], ServingStore]
    read: Callable[[Path], ServingLog]
    rebuild: Callable[[Path, FeaturePlan], Any]
    make_older: Callable[[Path], None]


def file(folder: Path) -> Path:
    return folder / "serving" / "serving.db"


# As a file of version 5 was, with an online state of format 2.
WITHOUT_VERSIONS = (
    "ALTER TABLE decisions DROP COLUMN read_versions",
    "ALTER TABLE decisions DROP COLUMN made_versions",
    "ALTER TABLE labels DROP COLUMN made_versions",
    "DROP TABLE online_versions",
    "DROP TABLE online_epoch",
    "UPDATE online_format SET version = 2",
    "PRAGMA user_version = 5",
)


def make_older(folder: Path) -> None:
    """As the first version of the file was: of the one use case, without what later versions added."""
    with closing(sqlite3.connect(file(folder))) as connection, connection:
        for statement in (
            "DROP INDEX labels_once",
            "ALTER TABLE labels DROP COLUMN given_us",
            "CREATE UNIQUE INDEX labels_once ON labels (transaction_id, label_us, is_fraud)",
            "ALTER TABLE decisions DROP COLUMN freshness",
            "DROP TABLE measured",
            "DROP TABLE use_case",
            "DROP TABLE waiting_labels",
            *WITHOUT_VERSIONS,
            "PRAGMA user_version = 1",
        ):
            connection.execute(statement)


STORES = {
    "sqlite": Kind(
        lambda folder: serving_store(file(folder)),
        lambda folder: serving_log(file(folder)),
        lambda folder, plan: state_rebuild(file(folder), PARCELS, plan),
        make_older,
    )
}


class Opened:
    """A store that holds parcels, and its log."""

    def __init__(self, kind: Kind, folder: Path, plan: FeaturePlan) -> None:
        self.kind, self.folder, self.plan = kind, folder, plan
        self.store, self.log = kind.write(folder), kind.read(folder)
        self.store.hold(PARCELS, plan)

    def another(self) -> ServingStore:
        """As another process has it open."""
        return self.kind.write(self.folder)

    def decide(self, number: int, at_us: int = START_US, **changes: Any) -> None:
        """Record a decision and its event, as the service does."""
        event, row = parcel_row(number, at_us, **changes)
        self.store.add_decisions([row])
        self.store.state.push(STREAM, row.answer.prediction_id, event, at_us, at_us)
        self.store.move_to(Position(row.seq, at_us, at_us))


def parcel_row(number: int, at_us: int, **changes: Any) -> tuple[dict[str, Any], DecisionRow]:
    values = ["swift", "north", "north-south", None, 120.0, "standard", 6.0]
    event = {"parcel_id": f"p{number}", **dict(zip(PARCELS.event.names[1:], values, strict=True))}
    row = DecisionRow(
        number, "parcel", at_us, at_us, values, {"a": 1.5, "b": None}, answer(number), 2 * DAY_US, b"digest",
        READ, MADE,
    )  # fmt: skip
    return event, row._replace(**changes)


def answer(number: int) -> Answer:
    reasons = (Reason("a", 1.5, 0.25),)
    return Answer(f"p{number}", 0.75, "WARN", 0.5, 2.0, "7", reasons, True, {"routes": 60.0, "depots": None})


@pytest.fixture(scope="module")
def plan() -> FeaturePlan:
    return parcels_plan()


@pytest.fixture(scope="module")
def fraud_plan() -> FeaturePlan:
    return fraud_service_plan()


@pytest.fixture(params=STORES)
def opened(request: pytest.FixtureRequest, tmp_path: Path, plan: FeaturePlan) -> Iterator[Opened]:
    made = Opened(STORES[request.param], tmp_path, plan)
    yield made
    made.store.close()


# One commit.


def test_what_is_written_in_a_commit_is_there_as_a_whole(opened: Opened) -> None:
    with opened.store.one_commit():
        opened.decide(1)
    with closing(opened.another()) as other:
        other.hold(PARCELS, opened.plan)
        assert other.find("p1") == (replace(answer(1), repeated=True), b"digest")
        assert other.state.count(STREAM) == 1
        assert other.position() == Position(1, START_US, START_US)


@pytest.mark.parametrize("error", [ValueError("a fault"), KeyboardInterrupt()])
def test_a_commit_that_raises_leaves_nothing(opened: Opened, error: BaseException) -> None:
    def half_a_commit() -> None:
        with opened.store.one_commit():
            opened.decide(1)
            opened.store.add_label(LabelRow(2, "p1", True, START_US, True, None))
            opened.store.add_feed_event(ROADS, feed_row(3))
            raise error

    with pytest.raises(type(error)):
        half_a_commit()
    assert opened.store.find("p1") is None
    assert opened.store.labels_of("p1") == []
    assert opened.store.find_feed_event(ROADS, "e3") is None
    assert opened.store.position() == Position(0, 0, 0)
    assert opened.store.state.count(STREAM) == 0
    with opened.store.one_commit():
        opened.decide(1)
    assert opened.store.state.count(STREAM) == 1, "and the next commit is as good as any"


def test_within_a_commit_the_position_moves_and_what_is_written_shows_as_changes(opened: Opened) -> None:
    with opened.store.one_commit():
        before = opened.store.changes
        opened.store.find("p1")
        assert (opened.store.position().last, opened.store.changes) == (0, before)
        opened.decide(1)
        assert opened.store.position().last == 1
        assert opened.store.changes > before
        opened.decide(2, START_US + 1)
        assert opened.store.position().last == 2
    with closing(opened.another()) as other:
        assert other.position() == opened.store.position() == Position(2, START_US + 1, START_US + 1)
        with other.one_commit():
            other.move_to(Position(7, 8, 9))
    with opened.store.one_commit():
        assert opened.store.position() == Position(7, 8, 9), "another one may have moved it"


def test_another_ones_commit_is_waited_for_shortly_and_then_nothing_happened(opened: Opened) -> None:
    with closing(opened.another()) as other:
        with other.one_commit():
            with pytest.raises(StoreBusy), opened.store.one_commit():
                pytest.fail("the lock was another one's")
            with pytest.raises(StoreBusy):
                opened.store.add_measured(START_US, {("7", "scored"): 1})
        with opened.store.one_commit():
            opened.decide(1)
    assert opened.log.decisions(FIRST, PARCELS).num_rows == 1
    assert opened.log.measured("7", 0).scored == 0


def test_commits_of_several_writers_come_one_after_the_other(opened: Opened) -> None:
    def work(store: ServingStore) -> None:
        for _ in range(20):
            while True:
                try:
                    with store.one_commit():
                        at = store.position()
                        store.move_to(at._replace(last=at.last + 1))
                    break
                except StoreBusy:
                    continue

    stores = [opened.another() for _ in range(3)]
    threads = [threading.Thread(target=work, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in stores:
        store.close()
    assert opened.store.position().last == 60


def test_the_stores_own_errors_leave_a_commit_as_one_of_ours(opened: Opened) -> None:
    def number_twice() -> None:
        with opened.store.one_commit():
            opened.decide(1)
            opened.decide(1)

    with pytest.raises(StoreError) as caught:
        number_twice()
    cause = caught.value.__cause__
    assert isinstance(cause, Exception)
    assert opened.store.owns(cause)
    assert not opened.store.owns(ValueError())
    assert opened.store.find("p1") is None


# What is on record.


def test_an_id_is_answered_once_and_found_again(opened: Opened) -> None:
    assert opened.store.find("p1") is None
    with opened.store.one_commit():
        opened.decide(1)
    found = opened.store.find("p1")
    assert found == (replace(answer(1), repeated=True), b"digest")
    logged = opened.store.find_event("p1")
    assert logged is not None
    assert (logged.event_us, logged.created_us, logged.decision, logged.maturity_us) == (
        START_US, START_US, "WARN", 2 * DAY_US,
    )  # fmt: skip
    assert logged.event == parcel_row(1, START_US)[0]


def test_a_ready_made_vector_is_answered_and_is_no_event(opened: Opened) -> None:
    row = parcel_row(1, START_US, kind="features", values=None)[1]
    with opened.store.one_commit():
        opened.store.add_decisions([row])
    assert opened.store.find("p1") is not None
    assert opened.store.find_event("p1") is None
    assert opened.log.served_days(PARCELS, STREAM) == set()
    (read,) = opened.log.decisions(FIRST, PARCELS).to_pylist()
    assert (read["kind"], read["carrier"], read["distance_km"]) == ("features", None, None)


def test_the_same_label_again_is_a_repeat_and_labels_come_in_the_order_of_becoming_known(
    opened: Opened,
) -> None:
    later = LabelRow(1, "p1", False, START_US + DAY_US, False, None)
    first = LabelRow(2, "p1", True, START_US, False, START_US)
    with opened.store.one_commit():
        assert opened.store.add_label(later)
        assert opened.store.add_label(first)
        assert not opened.store.add_label(first._replace(seq=3, label_us=START_US + 5)), "given as the same"
        assert not opened.store.add_label(later._replace(seq=3))
    assert opened.store.labels_of("p1") == [(START_US, True), (START_US + DAY_US, False)]
    assert opened.store.labels_of("p2") == []


def test_a_label_has_the_versions_that_were_added_to_it(opened: Opened) -> None:
    first, later = (LabelRow(n, "p1", True, START_US + n, True, START_US + n) for n in (1, 2))
    with opened.store.one_commit():
        opened.store.add_label(first)
        opened.store.add_label(later)
        opened.store.add_made(later, {"verdicts.route": 9})
    told = opened.log.labels(FIRST, PARCELS)["made_versions"].to_pylist()
    assert told == [None, '{"verdicts.route":9}']


def feed_row(number: int, at_us: int = START_US) -> FeedEventRow:
    values = {"depot": "north", "congestion": 0.5, "temperature_c": -4.0, "snow_cm": 0.0}
    return FeedEventRow(number, f"e{number}", at_us, at_us, values, MADE)


def test_an_event_of_a_feed_is_found_by_its_id(opened: Opened) -> None:
    assert opened.store.find_feed_event(ROADS, "e1") is None
    with opened.store.one_commit():
        opened.store.add_feed_event(ROADS, feed_row(1))
    assert opened.store.find_feed_event(ROADS, "e1") == (START_US, feed_row(1).values)


def test_what_arrived_since_a_moment_comes_in_parts_in_commit_order(opened: Opened) -> None:
    with opened.store.one_commit():
        for number in range(1, 251):
            opened.decide(number, START_US + number)
        opened.store.add_label(LabelRow(251, "p9", True, START_US + 9, True, None))
        opened.store.add_feed_event(ROADS, feed_row(252, START_US + 1))
    parts = list(opened.store.events_since(START_US + 2))
    assert len(parts) > 1
    names = [logged.event["parcel_id"] for part in parts for logged in part]
    assert names == [f"p{number}" for number in range(2, 251)]
    assert list(opened.store.labelled_since(START_US + 9)) == [["p9"]]
    assert list(opened.store.labelled_since(START_US + 10)) == []
    ((row,),) = opened.store.feed_events_since(ROADS, START_US)
    assert (dict(row.values), row.event_us) == (feed_row(1).values, START_US + 1)


# The reading half.


def test_a_reader_sees_what_was_committed_and_nothing_of_an_open_commit(opened: Opened) -> None:
    with opened.store.one_commit():
        opened.decide(1)
        assert opened.log.decisions(FIRST, PARCELS).num_rows == 0
        assert opened.log.served_days(PARCELS, STREAM) == set()
        assert opened.log.position() == Position(0, 0, 0)
    assert opened.log.decisions(FIRST, PARCELS).num_rows == 1
    assert opened.log.served_days(PARCELS, STREAM) == {FIRST}
    assert opened.log.position() == Position(1, START_US, START_US)
    assert opened.log.subject() == PARCELS


def test_a_day_is_read_in_its_columns(opened: Opened) -> None:
    with opened.store.one_commit():
        opened.decide(1)
        opened.decide(2, START_US + DAY_US)
        opened.store.add_label(LabelRow(3, "p1", True, START_US + DAY_US, True, None))
        opened.store.add_feed_event(ROADS, feed_row(4, START_US + DAY_US))
    events, labels = opened.log.decisions(SECOND, PARCELS), opened.log.labels(SECOND, PARCELS)
    feed = opened.log.feed_events(SECOND, ROADS)
    assert (events.schema, labels.schema) == (decision_columns(PARCELS), label_columns(PARCELS))
    assert feed.schema == feed_columns(ROADS)
    assert [row["prediction_id"] for row in events.to_pylist()] == ["p2"]
    assert (events["read_seq"].to_pylist(), events["vehicle_id"].to_pylist()) == ([1], [None])
    assert [json.loads(events[name][0].as_py()) for name in ("read_versions", "made_versions")] == [
        READ,
        MADE,
    ]
    assert json.loads(feed["made_versions"][0].as_py()) == MADE
    assert labels.select(["seq", "parcel_id", "is_late", "known"]).to_pylist() == [
        {"seq": 3, "parcel_id": "p1", "is_late": True, "known": True}
    ]
    assert feed["congestion"].to_pylist() == [0.5]
    for dataset in (STREAM, "labels", ROADS.name):
        assert opened.log.served_days(PARCELS, dataset, [SECOND, "2018-04-03"]) == {SECOND}
    assert opened.log.served_days(PARCELS, STREAM) == {FIRST, SECOND}
    assert opened.log.served_days(PARCELS, "labels", []) == set()


def test_a_receipt_is_found_by_its_id_with_its_reasons(opened: Opened) -> None:
    with opened.store.one_commit():
        for number in range(1, 601):
            opened.decide(number)
    asked = [f"p{number}" for number in range(600, 0, -1)]
    receipts = opened.log.receipts(PARCELS, [*asked, "nobody's"])
    assert receipts.schema == receipt_columns(PARCELS)
    assert receipts["prediction_id"].to_pylist() == asked[::-1], "in commit order"
    assert json.loads(receipts["reasons"][0].as_py()) == [
        {"feature": "a", "value": 1.5, "contribution": 0.25}
    ]
    assert opened.log.receipts(PARCELS, []).num_rows == 0


def test_a_sample_of_decisions_is_spread_over_the_log_and_always_the_same(opened: Opened) -> None:
    with opened.store.one_commit():
        for number in range(1, 401):
            opened.decide(number, START_US + (number > 300) * DAY_US)
    every = [f"p{number}" for number in range(1, 401)]
    assert opened.log.decision_ids(PARCELS) == opened.log.decision_ids(PARCELS, sample=1_000) == every
    assert opened.log.decision_ids(PARCELS, SECOND) == every[300:]
    chosen = opened.log.decision_ids(PARCELS, FIRST, 30)
    assert chosen == opened.log.decision_ids(PARCELS, FIRST, 30)
    places = [every.index(one) for one in chosen]
    assert places == sorted(places)
    assert [sum(place // 100 == part for place in places) for part in range(4)] == [10, 10, 10, 0]
    assert opened.log.decision_ids(PARCELS, "2018-05-01", 30) == []


@pytest.mark.parametrize("name", STORES)
def test_a_store_that_no_service_made_reads_as_empty_and_is_not_made(name: str, tmp_path: Path) -> None:
    log = STORES[name].read(tmp_path)
    assert log.subject() is None
    assert log.decisions(FIRST, PARCELS).schema == decision_columns(PARCELS)
    assert log.receipts(PARCELS, ["p1"]).schema == receipt_columns(PARCELS)
    assert log.decision_ids(PARCELS) == []
    assert log.labels(FIRST, PARCELS).num_rows == log.feed_events(FIRST, ROADS).num_rows == 0
    assert log.served_days(PARCELS, ROADS.name) == log.served_days(PARCELS, STREAM, [FIRST]) == set()
    assert (log.measured("7", 0).scored, log.position(), log.agreed_us(STREAM)) == (0, Position(0, 0, 0), 0)
    assert list(tmp_path.iterdir()) == []


def test_a_column_that_a_later_declaration_adds_is_null_in_what_was_before(
    opened: Opened, plan: FeaturePlan
) -> None:
    with opened.store.one_commit():
        opened.decide(1)
    event = replace(PARCELS.event, columns=(*PARCELS.event.columns, Number("weight_kg")))
    later = replace(PARCELS, event=event)
    assert opened.log.decisions(FIRST, later)["weight_kg"].to_pylist() == [None]
    opened.store.hold(later, plan)
    row = parcel_row(2, START_US)[1]
    with opened.store.one_commit():
        opened.store.add_decisions([row._replace(values=[*(row.values or ()), 2.5])])
    assert opened.log.decisions(FIRST, later)["weight_kg"].to_pylist() == [None, 2.5]
    assert opened.log.subject() == opened.store.subject == later


def test_a_log_belongs_to_the_use_case_that_was_held_first(opened: Opened, plan: FeaturePlan) -> None:
    for ask in (
        lambda: opened.store.hold(BEFORE, plan),
        lambda: opened.log.decisions(FIRST, BEFORE),
        lambda: opened.log.labels(FIRST, BEFORE),
        lambda: opened.log.receipts(BEFORE, ["p1"]),
        lambda: opened.log.decision_ids(BEFORE),
        lambda: opened.log.served_days(BEFORE, "transactions"),
    ):
        with pytest.raises(BadStore, match="holds decisions of the use case 'parcels', not of 'fraud'"):
            ask()


@pytest.mark.parametrize("name", STORES)
def test_a_store_of_the_first_version_is_read_as_it_is_and_brought_up_when_a_service_opens_it(
    name: str, tmp_path: Path, fraud_plan: FeaturePlan
) -> None:
    kind = STORES[name]
    values: list[object] = ["c1", "m1", 10.0, False]
    row = parcel_row(1, START_US, kind="transaction", values=values)[1]
    label = LabelRow(2, "p1", True, START_US + 5, True, START_US + 5)
    with closing(kind.write(tmp_path)) as store:
        store.hold(BEFORE, fraud_plan)
        with store.one_commit():
            store.add_decisions([row])
            store.add_label(label)
    kind.make_older(tmp_path)
    log = kind.read(tmp_path)
    assert log.subject() == BEFORE
    assert log.decisions(FIRST, BEFORE)["freshness"].to_pylist() == [None]
    assert log.measured("7", 0).scored == 0
    with closing(kind.write(tmp_path)) as store:
        assert store.subject == BEFORE
        store.hold(BEFORE, fraud_plan)
        found = store.find("p1")
        assert found is not None
        assert (found[0].score, found[0].freshness) == (0.75, {})
        with store.one_commit():
            assert not store.add_label(label._replace(seq=3)), "it is there already"
        assert store.labels_of("p1") == [(START_US + 5, True)]
        store.add_measured(START_US, {("7", "scored"): 1})
    assert log.measured("7", 0).scored == 1
    assert log.decisions(FIRST, BEFORE)["freshness"].to_pylist() == ["{}"]


def test_a_file_without_versions_is_read_as_it_is_and_gets_them_when_a_service_opens_it(
    tmp_path: Path, plan: FeaturePlan
) -> None:
    opened = Opened(STORES["sqlite"], tmp_path, plan)
    with opened.store.one_commit():
        opened.decide(1)
        opened.store.add_label(LabelRow(2, "p1", True, START_US, True, None))
        opened.store.add_feed_event(ROADS, feed_row(3))
    opened.store.close()
    with closing(sqlite3.connect(file(tmp_path))) as connection, connection:
        connection.execute(f"ALTER TABLE feed_{ROADS.name} DROP COLUMN made_versions")
        for statement in WITHOUT_VERSIONS:
            connection.execute(statement)

    def told() -> list[list[str | None]]:
        decisions, labels = opened.log.decisions(FIRST, PARCELS), opened.log.labels(FIRST, PARCELS)
        columns = decisions["read_versions"], decisions["made_versions"], labels["made_versions"]
        return [c.to_pylist() for c in (*columns, opened.log.feed_events(FIRST, ROADS)["made_versions"])]

    assert told() == [[None]] * 4
    assert opened.log.agreed_us(STREAM, 1) == START_US
    again = Opened(STORES["sqlite"], tmp_path, plan)
    assert told() == [[None]] * 4
    with again.store.one_commit():
        again.decide(4)
        again.store.add_feed_event(ROADS, feed_row(5))
        assert min(again.store.state.versions(dict.fromkeys(plan.keys, "north")).values()) > START_US
    read, made, labels, feeds = told()
    assert [text and json.loads(text) for text in (*read, *made)] == [None, READ, None, MADE]
    assert (labels, [text and json.loads(text) for text in feeds]) == ([None], [None, MADE])
    again.store.close()


@pytest.mark.parametrize("name", STORES)
def test_before_a_release_is_held_there_is_no_subject_and_no_state(name: str, tmp_path: Path) -> None:
    with closing(STORES[name].write(tmp_path)) as store:
        assert store.subject is None
        with pytest.raises(StoreError, match="no release is held"):
            assert store.state
        with pytest.raises(StoreError, match="no release is held"):
            store.find("p1")
        assert STORES[name].read(tmp_path).subject() is None


# The online state and the housekeeping.


def test_the_moment_that_three_events_have_reached_is_believed(opened: Opened) -> None:
    for number, at_us in enumerate((START_US, START_US + 1, START_US + 900 * DAY_US), 1):
        assert opened.store.agreed_us(STREAM) == opened.log.agreed_us(STREAM) == 0
        with opened.store.one_commit():
            opened.decide(number, at_us)
    assert opened.store.agreed_us(STREAM) == opened.log.agreed_us(STREAM) == START_US
    assert opened.log.agreed_us(STREAM, 2) == START_US + 1
    assert opened.store.agreed_us("nothing") == 0


def test_a_plan_that_needs_what_was_never_stored_has_a_reason_against_it(
    opened: Opened, plan: FeaturePlan
) -> None:
    with opened.store.one_commit():
        opened.decide(1)
    view = next(view for view in plan.views if view.stream == STREAM and view.columns)
    summed = next(aggregate for aggregate in view.aggregates if aggregate.column in view.columns)
    other = replace(view, aggregates=(replace(summed, column="weight_kg"),))
    assert opened.store.lacks(plan) == []
    assert opened.store.lacks(replace(plan, views=(other,))) == [
        "the column weight_kg of the stream parcels is not stored"
    ]


def test_counts_of_versions_add_up_by_the_minute(opened: Opened) -> None:
    opened.store.add_measured(START_US, {("7", "scored"): 2, ("7", "alarms"): 1, ("8", "errors"): 1})
    opened.store.add_measured(START_US + MINUTE_US, {("7", "scored"): 3, ("7", "over_2_ms"): 1})
    found = opened.log.measured("7", START_US)
    assert (found.scored, found.alarms, found.errors, found.slower_than(1)) == (5, 1, 0, 1)
    assert opened.log.measured("7", START_US + MINUTE_US + 5).scored == 3
    assert opened.log.measured("8", START_US).errors == 1


def test_events_that_no_window_reaches_are_forgotten_and_the_log_keeps_them(opened: Opened) -> None:
    with opened.store.one_commit():
        opened.decide(1)
        for number in range(2, 103):
            opened.decide(number, START_US + 400 * DAY_US + number)
    assert opened.store.forget_some(STREAM, DAY_US) == 1
    assert opened.store.state.count(STREAM) == 101
    assert opened.store.find("p1") is not None
    assert opened.store.forget_some(STREAM, DAY_US) == 0


def test_settling_what_questions_have_shown_to_be_due_ends_and_changes_no_answer(opened: Opened) -> None:
    keys = {**dict.fromkeys(opened.plan.keys), "vehicle_id": "van"}

    def answer() -> dict[str, float | int | None]:
        with opened.store.one_commit():
            return opened.store.state.aggregates(keys, START_US + DAY_US)

    assert not opened.store.settle_some()
    for number in range(1, 40):
        at_us = START_US + number * MINUTE_US
        event = {**parcel_row(number, at_us)[0], "vehicle_id": "van"}
        with opened.store.one_commit():
            opened.store.state.push(STREAM, f"p{number}", event, at_us, at_us)
    before = answer()
    steps = [opened.store.settle_some() for _ in range(20)]
    assert steps[0]
    assert not steps[-1]
    assert answer() == before


def test_tidying_changes_nothing_that_is_stored_and_ends_where_nothing_is_written(opened: Opened) -> None:
    begun = []

    def begin_again() -> bool:
        begun.append(opened.store.begin_again())
        return begun[-1]

    with closing(opened.another()) as other:
        for number in range(1, 20):
            with opened.store.one_commit():
                opened.decide(number)
            assert other.tidy(begin_again) >= 0
        time.sleep(0.05)  # Until the next step is due.
        other.tidy(begin_again)
        assert begun[-1]
        many = len(begun)
        for _ in range(10):
            time.sleep(0.01)
            other.tidy(begin_again)
        assert len(begun) == many
    assert opened.store.state.count(STREAM) == 19
    assert opened.log.decisions(FIRST, PARCELS).num_rows == 19


def test_the_housekeeping_is_up_to_one_of_all_that_have_the_store_open(opened: Opened) -> None:
    with closing(opened.another()) as first:
        assert first.on_duty()
        assert not opened.store.on_duty()
        assert first.on_duty()
    assert opened.store.on_duty()


# A rebuild beside a store that is open.


def test_a_rebuild_takes_over_what_the_log_knows_and_the_open_store_follows(
    opened: Opened, plan: FeaturePlan
) -> None:
    with opened.store.one_commit():
        opened.decide(1)
        opened.store.add_label(LabelRow(2, "p1", True, START_US + 5, True, None))
        opened.store.add_feed_event(ROADS, feed_row(3))
    rebuild: StateRebuild
    with opened.kind.rebuild(opened.folder, plan) as rebuild:
        rebuild.keep_waiting([("p2", START_US, True)])
        with opened.store.one_commit():
            opened.decide(4)  # While the new state is filled.
        assert rebuild.replay(START_US, DAY_US) == 4
        assert rebuild.carry_over(START_US) == {**dict.fromkeys((v.stream for v in plan.views), 0)}
        rebuild.switch()
        state = rebuild.serving()
        assert (state.count(STREAM), state.count(ROADS.name), len(state.find_of("verdicts", "p1"))) == (
            2,
            1,
            1,
        )
    with opened.store.one_commit():
        assert opened.store.state.count(ROADS.name) == 1
    assert opened.store.labels_of("p2") == [(START_US, True)], "it waits in the lake"
    assert opened.log.served_days(PARCELS, "labels") == {FIRST}, "and is no part of the log"


def test_a_rebuild_that_breaks_off_leaves_the_state_that_was(opened: Opened, plan: FeaturePlan) -> None:
    with opened.store.one_commit():
        opened.decide(1)

    def half_a_rebuild() -> None:
        with opened.kind.rebuild(opened.folder, plan) as rebuild:
            rebuild.keep_waiting([])
            raise ValueError("a fault")

    with pytest.raises(ValueError, match="a fault"):
        half_a_rebuild()
    with opened.store.one_commit():
        assert opened.store.state.count(STREAM) == 1
