"""What serving accepts, ingest accepts: times, amounts and ids that it would quarantine or change are refused
at the door.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from payment_feeds import LABEL_KEY, LABEL_ORDER, labels_schema
from pydantic import TypeAdapter, ValidationError
from serving_kit import DAY_US, MINUTE_US, START_US, Bench, bounded, paid

from mlops_assets.core.data.validation import validate
from serving.messages import BadInput, Label
from serving.protocols.native.schemas import Id, Time
from serving.releases import Champion

KNOWN = pd.Timestamp("2026-03-02", tz="UTC")


@pytest.fixture
def wall(tmp_path: Path, champion: Champion) -> Iterator[Bench]:
    made = Bench(tmp_path / "wall", champion, "wall")
    yield made
    made.plane.close()


def refused(bench: Bench, transaction: Any, kind: str, field: str, message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        bench.predict(transaction)
    assert (caught.value.kind, caught.value.field) == (kind, ("transaction", field))


def arrivals(bench: Bench) -> list[int]:
    return [us for (us,) in bench.connection.execute("SELECT created_us FROM decisions ORDER BY seq")]


def test_on_the_wall_clock_an_event_of_tomorrow_is_refused(wall: Bench) -> None:
    wall.now_us = START_US + MINUTE_US
    wall.predict(paid(0))
    refused(wall, paid(1, START_US + DAY_US), "future", "event_timestamp", "ahead of the service's clock")
    row = wall.decisions("2018-04-01").to_pylist()[0]
    assert (row["created_timestamp"] - row["event_timestamp"]).total_seconds() == 60


def test_a_payment_of_a_till_whose_clock_is_ahead_is_never_known_before_it_happened(wall: Bench) -> None:
    wall.predict(paid(0, START_US + 3 * MINUTE_US))
    wall.now_us += MINUTE_US
    wall.predict(paid(1, START_US))
    assert arrivals(wall) == [START_US + 3 * MINUTE_US, START_US + MINUTE_US]
    events = wall.connection.execute("SELECT event_us, created_us FROM online_transactions").fetchall()
    assert all(event_us <= created_us for event_us, created_us in events)


@pytest.mark.parametrize("amount", [-0.01, 1_000_000.01, float("nan"), float("inf")])
def test_an_amount_that_ingest_would_quarantine_is_refused_at_the_field(bench: Bench, amount: float) -> None:
    refused(
        bench,
        paid(1, amount=amount),
        "bad_value",
        "amount",
        f"^{amount:.15g} is (above 1000000, the highest|not from 0 to 1000000)",
    )
    for number, good in enumerate((0.0, 1_000_000.0)):
        assert bench.predict(paid(number, amount=good)).repeated is False


def test_a_release_says_itself_what_an_amount_may_be_and_an_answer_once_given_stays(
    bench: Bench, champion: Champion
) -> None:
    given = bench.predict(paid(0, amount=100.0))
    bench.champion = bounded(champion, max_amount=50.5)
    assert bench.predict(paid(1, amount=50.5)).repeated is False
    refused(
        bench,
        paid(2, amount=50.51),
        "bad_value",
        "amount",
        r"50\.51 is above 50\.5, the highest believable amount \(\[bounds\] max_amount\)",
    )
    assert bench.predict(paid(0, amount=100.0)) == replace(given, repeated=True)


def test_on_event_time_one_event_of_the_far_future_does_not_turn_the_clock(bench: Bench) -> None:
    bench.predict(paid(0))
    limit, label_limit = START_US + 7 * DAY_US, START_US + 30 * DAY_US
    refused(
        bench,
        paid(1, limit + 1),
        "future",
        "event_timestamp",
        "^2018-04-08 .* more than 7 days ahead of the service's clock, 2018-04-01",
    )
    refused(
        bench, replace(paid(1), created_us=limit + 1), "future", "created_timestamp", "more than 7 days ahead"
    )
    with pytest.raises(BadInput, match="more than 30 days ahead") as caught:
        bench.plane.add_labels([Label("t0", True, START_US), Label("t0", False, label_limit + 1)])
    assert (caught.value.kind, caught.value.field) == ("future", ("labels", 1, "label_timestamp"))
    assert bench.verdicts("t0") == [(START_US + 7 * DAY_US, False)]
    bench.predict(paid(2, START_US + MINUTE_US))
    bench.predict(paid(3, limit))
    assert arrivals(bench) == [START_US, START_US + MINUTE_US, limit]


def test_before_its_first_event_the_clock_may_go_anywhere_and_the_bound_is_a_setting(
    tmp_path: Path, champion: Champion
) -> None:
    bench = Bench(tmp_path, bounded(champion, ahead_days=1))
    bench.predict(paid(0, START_US + 5_000 * DAY_US))
    refused(bench, paid(1, START_US + 5_002 * DAY_US), "future", "event_timestamp", "more than 1 days")
    bench.plane.close()


def test_a_batch_of_labels_that_was_checked_as_a_whole_is_not_refused_half_way(bench: Bench) -> None:
    labels = [Label(f"t{day}", True, START_US + day * DAY_US) for day in (0, 50)]
    bench.plane.check_labels(labels)
    for label in labels:
        assert not bench.plane.add_labels([label], checked=True)[0].duplicate


def test_a_label_says_when_it_became_known_in_simulated_time_only(bench: Bench, wall: Bench) -> None:
    with pytest.raises(BadInput, match="required") as caught:
        bench.plane.add_labels([Label("t1", True, START_US), Label("t2", True)])
    assert caught.value.field == ("labels", 1, "label_timestamp")
    with pytest.raises(BadInput, match="not accepted"):
        wall.plane.add_labels([Label("t1", True, START_US)])


@given(st.text(min_size=1, max_size=5))
@example(" a")
@example("a\u00a0")
@example("a\x00b")
@example("a b")
@example("-")
@example("5.0")
def test_an_id_that_is_accepted_comes_through_ingest_as_it_is(text: str) -> None:
    try:
        accepted = TypeAdapter(Id).validate_python(text)
    except ValidationError:
        assert text != text.strip() or not text.isprintable()
        return
    label = pd.DataFrame({"transaction_id": [accepted], "is_fraud": [True], "label_timestamp": [KNOWN]})
    taken = validate(label, labels_schema(), key=LABEL_KEY, order=LABEL_ORDER)
    assert taken.accepted["transaction_id"].tolist() == [text]
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in accepted)


def test_a_clock_that_was_never_set_is_refused() -> None:
    adapter = TypeAdapter(Time)
    assert adapter.validate_json('"2000-01-01T00:00:00Z"').year == 2000
    with pytest.raises(ValidationError, match="before 2000-01-01"):
        adapter.validate_json('"2000-01-01T00:00:00+01:00"')


def test_a_moment_that_utc_cannot_tell_is_refused() -> None:
    adapter = TypeAdapter(Time)
    assert adapter.validate_json('"9999-12-31T23:59:59Z"').year == 9999
    with pytest.raises(ValidationError, match="after 9999-12-31"):
        adapter.validate_json('"9999-12-31T23:59:59-12:00"')
