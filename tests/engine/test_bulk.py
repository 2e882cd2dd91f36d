"""Whatever is computed in buckets of keys, on scratch files, is to the last bit what memory would have given."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Event, oracle

from feature_repo.engine.local.buckets import by_bucket
from feature_repo.engine.local.by_day import view_by_day, write_by_day
from feature_repo.engine.local.from_lake import features_from_lake
from feature_repo.engine.local.parallel import THREADS, in_order
from feature_repo.engine.plan import AGES, Aggregate, ViewPlan
from feature_repo.lake.datasets import DamagedPartition, Lake, MissingPartitions
from feature_repo.times import day_of

HOUR = 3_600_000_000
DAY = 24 * HOUR
START = 1_522_540_800_000_000  # 2018-04-01
TIME = pa.timestamp("us", tz="UTC")
DAYS = [day_of(START + n * DAY) for n in range(6)]


def plan_of(stream: str, hop_us: int = 0) -> ViewPlan:
    wanted = [
        ("count", "transaction_id"),
        ("avg", "money"),
        ("std", "money"),
        ("max", "money"),
        ("sum", "items"),
        ("count_distinct", "money"),
    ]
    aggregates = tuple(Aggregate(f"{f}_{c}_{d}d", c, f, d * DAY) for d in (1, 3) for f, c in wanted)
    ages = (Aggregate(function, "event_timestamp", function, 3 * DAY) for function in AGES)
    return ViewPlan("v", "key", stream, hop_us, (*aggregates, *ages), {"money": 2})


def lake_of(folder: str, **datasets: list[Event]) -> Lake:
    lake = Lake(folder)
    for dataset, events in datasets.items():
        for day in DAYS:
            rows = [e for e in events if day_of(e["created_us"]) == day]
            columns = {name: pa.array([r[name] for r in rows], kind) for name, kind in COLUMNS.items()}
            lake.write(dataset, day, pa.table(columns), validated=True)
    return lake


COLUMNS = {"transaction_id": pa.string(), "key": pa.string(), "money": pa.float64(), "items": pa.int64()}
COLUMNS |= {"event_timestamp": TIME, "created_timestamp": TIME}
events_of = st.lists(
    st.builds(
        lambda number, key, hour, late, money, items: {
            "transaction_id": f"t{number}",
            "key": key,
            "event_us": (at := START + hour * HOUR // 2),
            "created_us": at + late * HOUR,
            "event_timestamp": at,
            "created_timestamp": at + late * HOUR,
            "money": money,
            "items": items,
        },
        st.integers(0, 10**6),
        st.sampled_from(["a", "b", "customer-17", "a key of more than sixteen bytes", "é", "", None]),
        st.integers(0, 2 * 24 * 4),
        st.sampled_from([0, 0, 0, 1, 30]),
        st.none() | st.integers(0, 10**6).map(lambda cents: cents / 100),
        st.integers(-3, 3) | st.just(2**61),
    ),
    max_size=40,
)


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feature_repo.engine.local.from_lake.ROWS_AT_ONCE", 10)


@settings(max_examples=60)
@given(events_of, events_of, st.booleans(), st.sampled_from([0, HOUR]), st.integers(1, 12))
def test_buckets_and_memory_and_the_definition_give_the_same_bits(
    rows: list[Event], others: list[Event], of_itself: bool, hop_us: int, at_once: int
) -> None:
    view = plan_of("rows" if of_itself else "others", hop_us)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        lake = lake_of(folder, rows=rows, others=others)
        memory = dict(view_by_day(lake, view, "rows", DAYS[1:]))
        patch.setattr("feature_repo.engine.local.from_lake.ROWS_AT_ONCE", at_once)
        buckets = dict(view_by_day(lake, view, "rows", DAYS[1:]))
    assert list(memory) == list(buckets) == DAYS[1:]
    events = rows if of_itself else others
    for day, table in memory.items():
        assert table.equals(buckets[day])
        asked = [r for r in rows if day_of(r["created_us"]) == day]
        assert table["transaction_id"].to_pylist() == [r["transaction_id"] for r in asked]
        assert table.drop(["transaction_id", "event_timestamp", "created_timestamp"]).to_pylist() == [
            oracle(view, events, r["key"], r["event_us"]) for r in asked
        ]


@settings(max_examples=40)
@given(
    events_of,
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "é", "nobody", None]), st.integers(0, 200)),
        min_size=1,
        max_size=30,
    ),
)
def test_a_historical_call_gives_the_same_bits_by_buckets(
    events: list[Event], questions: list[tuple[str | None, int]]
) -> None:
    keys, at_us = (
        pa.chunked_array([pa.array([k for k, _ in questions], pa.string())]),
        np.array([START + h * HOUR for _, h in questions]),
    )
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        lake = lake_of(folder, rows=events)
        memory = features_from_lake(lake, plan_of("rows"), keys, at_us)
        patch.setattr("feature_repo.engine.local.from_lake.ROWS_AT_ONCE", 5)
        buckets = features_from_lake(lake, plan_of("rows"), keys, at_us)
    assert memory.keys() == buckets.keys()
    for name, values in memory.items():
        assert values.dtype == buckets[name].dtype
        np.testing.assert_array_equal(values, buckets[name])


def row(number: int, key: str = "a", hours: float = 0.0, **values: Any) -> Event:
    at = START + round(hours * HOUR)
    times = {"event_us": at, "created_us": at, "event_timestamp": at, "created_timestamp": at}
    return {"transaction_id": f"t{number}", "key": key, "money": 1.0, "items": 1, **times, **values}


@pytest.mark.usefixtures("few_rows")
def test_scratch_files_are_gone_afterwards_even_when_nobody_takes_all_the_days(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    lake = lake_of(str(tmp_path / "lake"), rows=[row(n, f"k{n}", n) for n in range(60)])
    tables: Iterator[Any] = view_by_day(lake, plan_of("rows"), "rows", DAYS)
    next(tables)
    assert list(scratch.iterdir())
    tables.close()  # type: ignore[attr-defined]
    assert not list(scratch.iterdir())


@pytest.mark.usefixtures("few_rows")
def test_days_that_did_not_pass_hold_no_events_in_buckets_either(tmp_path: Path) -> None:
    lake = lake_of(str(tmp_path), rows=[row(n, hours=n) for n in range(60)])
    broken = lake.read("rows", [DAYS[0]])
    lake.write("rows", DAYS[0], broken, validated=False)
    (_, table), *_ = view_by_day(lake, plan_of("rows"), "rows", DAYS[1:3])
    assert table["count_transaction_id_3d"].to_pylist() == [float(n) for n in range(24)]


def test_a_day_that_is_missing_is_named(tmp_path: Path) -> None:
    lake = lake_of(str(tmp_path), rows=[row(0)])
    with pytest.raises(MissingPartitions, match="2018-05-01"):
        list(view_by_day(lake, plan_of("rows"), "rows", [*DAYS, "2018-05-01"]))


@pytest.mark.usefixtures("few_rows")
def test_days_of_different_types_are_named(tmp_path: Path) -> None:
    lake = lake_of(str(tmp_path), rows=[row(n, hours=n) for n in range(60)])
    table = lake.read("rows", [DAYS[1]])
    lake.write(
        "rows",
        DAYS[1],
        table.set_column(table.column_names.index("items"), "items", table["items"].cast(pa.float64())),
        validated=True,
    )
    with pytest.raises(DamagedPartition, match=rf"rows: .*{DAYS[1]}"):
        list(view_by_day(lake, plan_of("rows"), "rows", DAYS))


def test_the_days_written_are_validated_and_hold_what_was_given(tmp_path: Path) -> None:
    lake = lake_of(str(tmp_path), rows=[row(n, hours=n) for n in range(60)])
    written = write_by_day(lake, "made", view_by_day(lake, plan_of("rows"), "rows", DAYS))
    assert [(m.partition, m.rows, m.validated) for m in written] == [
        (day, rows, True) for day, rows in zip(DAYS, (24, 24, 12, 0, 0, 0), strict=True)
    ]
    assert lake.read("made", [DAYS[2]])["count_transaction_id_1d"].to_pylist() == [24.0] * 12


def test_a_key_is_of_one_bucket_wherever_it_stands_and_buckets_are_of_a_size() -> None:
    keys = [f"{n}" for n in range(5000)]
    (order, counts), (again, _) = (
        by_bucket(pa.chunked_array([keys]), 7),
        by_bucket(pa.chunked_array([keys[::-1][:900], [None], keys[::-1][900:]]), 7),
    )
    ends = np.cumsum(counts)
    bucket_of = {keys[place]: int(np.searchsorted(ends, n, side="right")) for n, place in enumerate(order)}
    shuffled = [*keys[::-1][:900], None, *keys[::-1][900:]]
    assert [bucket_of[k] for place in again if (k := shuffled[place]) is not None] == sorted(
        bucket_of.values()
    )
    assert counts.min() > 0.8 * len(keys) / 7


def test_work_is_taken_no_further_ahead_than_there_are_threads() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(50):
            taken.append(number)
            yield number

    results = in_order(lambda n: n * n, items())
    assert [next(results), next(results)] == [0, 1]
    assert len(taken) <= THREADS + 3
    assert list(results) == [n * n for n in range(2, 50)]
