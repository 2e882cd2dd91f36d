"""What a feed holds beyond what was taken of it, and ids that are written in two ways."""

import pyarrow as pa
import pytest

from mlops_assets.core.data.completeness import FEWEST, Match, Taken, gone, match_ids, untaken

DAY, NEXT = "2025-03-05", "2025-03-06"


@pytest.mark.parametrize(
    ("held", "taken", "found"),
    [
        ({DAY: {"a": 3}}, {DAY: Taken(3, {"a": 3})}, {}),
        ({DAY: {"a": 3, "late": 2}}, {DAY: Taken(3, {"a": 3})}, {DAY: 2}),
        ({DAY: {"a": 5}}, {DAY: Taken(3, {"a": 3})}, {DAY: 2}),  # a file that grew
        ({DAY: {"a": 1}}, {DAY: Taken(3, {"a": 3})}, {DAY: -2}),  # one that was cut
        ({}, {DAY: Taken(3, {"a": 3})}, {}),  # files that were tidied away
        ({DAY: {"archive/a": 3}}, {DAY: Taken(3, {"a": 3})}, {}),  # or moved
        ({DAY: {"archive/a.csv.gz": 3}}, {DAY: Taken(3, {"a.csv": 3})}, {}),  # or packed
        ({DAY: {"late": 3}}, {DAY: Taken(3, {"a": 3})}, {DAY: 3}),  # tidied away, and then as many came late
        ({DAY: {"a": 1, "late": 2}}, {DAY: Taken(3, {"a": 3})}, {DAY: 2}),
        ({DAY: {"late": 2}}, {DAY: Taken(3, {"a": 3})}, {DAY: 2}),  # tidied away, and then some came late
        ({DAY: {"late": 3, "a": 3}}, {DAY: Taken(0, {})}, {DAY: 6}),
        ({DAY: {"a": 4}}, {DAY: Taken(3)}, {DAY: 1}),  # a home of before files were recorded
        ({DAY: {"a": 2}}, {DAY: Taken(3)}, {}),
        ({NEXT: {"a": 4}}, {DAY: Taken(0, {})}, {}),  # a day that was never made is no concern yet
    ],
)
def test_a_day_is_behind_by_the_rows_that_came_to_its_files(
    held: dict[str, dict[str, int]], taken: dict[str, Taken], found: dict[str, int]
) -> None:
    assert untaken(held, taken) == found


def test_files_that_are_gone_are_named_before_their_days_are_made_again() -> None:
    taken = {DAY: Taken(6, {"a.csv": 3, "b.csv": 2, "c.csv": 1}), NEXT: Taken(1, {"d.csv": 1})}
    assert gone({DAY: {"b.csv": 2, "old/c.csv.gz": 1, "late.csv": 1}}, taken, [DAY]) == ["a.csv"]
    assert gone({}, {DAY: Taken(3)}, [DAY]) == []


@pytest.mark.parametrize(
    ("label", "transaction", "cause"),
    [
        ("00{n}", "{n}", "leading zeros"),
        ("{n}", "000{n}", "leading zeros"),
        ("{n}.0", "{n}", "a decimal part (.0)"),
        ("tx{n}", "TX{n}", "upper and lower case"),
        ("{n} ", "{n}", "white space"),
        ("20-{n}-7", "20{n}7", "separators"),
        ("TX-{n}", "{n}", "a prefix or a suffix"),
        ("TX-00{n}", "tx{n}.0", "several of these"),
    ],
)
def test_two_ways_of_writing_an_id_are_told_side_by_side_even_of_a_few(
    label: str, transaction: str, cause: str
) -> None:
    numbers = range(1001, 1004)
    found = match_ids(
        pa.array([label.format(n=n) for n in numbers]),
        pa.chunked_array([[transaction.format(n=n) for n in range(1, 2000)]]),
    )
    assert (found.labels, found.matched, found.cause) == (3, 0, cause)
    assert found.label_ids[0] == label.format(n=1001)
    assert found.event_ids[0] == transaction.format(n=1001)
    assert found.broken(old_enough=False)


def test_a_feed_that_matches_in_part_or_waits_is_sound() -> None:
    known = pa.chunked_array([[f"t{n}" for n in range(500)]])
    assert not match_ids(pa.array([f"t{n}" for n in range(490, 600)]), known).broken(old_enough=True)
    strangers = match_ids(pa.array([f"unheard-of {chr(97 + n)}" for n in range(FEWEST)]), known)
    assert strangers.cause is None
    assert not strangers.broken(old_enough=False), "a platform younger than the bank"
    assert strangers.broken(old_enough=True)
    assert strangers.event_ids == ("t0", "t1", "t2")
    assert not Match(0, 0).broken(old_enough=True)
