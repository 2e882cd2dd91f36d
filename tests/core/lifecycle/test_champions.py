"""What a history of decisions means, line by line."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.core.lifecycle.champions import back_to, champions, held_back, moved_to

Row = dict[str, Any]


def promoted(version: str, over: str | None = None, **more: Any) -> Row:
    return {
        "kind": "promoted",
        "version": version,
        "champion": over,
        "by": "gate",
        "at": "then",
        "reasons": ["good"],
        **more,
    }


def rolled_back(version: str, to: str, **more: Any) -> Row:
    return {
        "kind": "rolled_back",
        "version": version,
        "champion": version,
        "to": to,
        "by": "anna",
        "at": "then",
        "reasons": ["alarms"],
        **more,
    }


def decided(kind: str, version: str, **more: Any) -> Row:
    return {**promoted(version), "kind": kind, **more}


@pytest.mark.parametrize(
    ("rows", "line", "back"),
    [
        ([], [], None),
        ([promoted("1")], ["1"], None),
        ([promoted("2", over="1")], ["1", "2"], "1"),
        ([promoted("1"), decided("refused", "2"), decided("awaiting", "3")], ["1"], None),
        ([promoted("1"), promoted("2"), promoted("3")], ["1", "2", "3"], "2"),
        ([promoted("1"), promoted("2"), promoted("3"), rolled_back("3", "2")], ["1", "2"], "1"),
        (
            [promoted("1"), promoted("2"), promoted("3"), rolled_back("3", "2"), rolled_back("2", "1")],
            ["1"],
            None,
        ),
        ([promoted("1"), promoted("2"), rolled_back("2", "1"), promoted("3")], ["1", "3"], "1"),
        ([promoted("1"), promoted("2"), rolled_back("2", "1"), promoted("2")], ["1", "2"], "1"),
        # Between the two a person went back and forth: what was rolled back is passed over.
        (
            [
                promoted("1"),
                promoted("2"),
                promoted("1"),
                promoted("3"),
                decided("declined", "1"),
                rolled_back("3", "2"),
            ],
            ["1", "2"],
            None,
        ),
        # The champion was moved by hand to 7, and a rollback returns to the one on record.
        ([promoted("1"), promoted("2"), rolled_back("7", "2")], ["1", "2"], "1"),
    ],
)
def test_a_rollback_walks_back_through_the_champions(
    rows: list[Row], line: list[str], back: str | None
) -> None:
    assert champions(rows) == line
    assert back_to(rows) == back


@given(st.lists(st.one_of(st.sampled_from("123456"), st.none()), max_size=12))
def test_however_it_goes_the_last_move_says_who_serves_and_a_way_back_ends(moves: list[str | None]) -> None:
    """A version stands for its promotion, None for a rollback where there is a way back."""
    rows: list[Row] = []
    for move in [*moves, *[None] * 12]:
        now = (champions(rows) or [None])[-1]
        if move is not None and move != now:
            rows.append(promoted(move, over=now))
        elif move is None and now is not None and (to := back_to(rows)) is not None:
            rows.append(rolled_back(now, to))
        moved = [moved_to(row) for row in rows if moved_to(row)]
        assert champions(rows)[-1:] == moved[-1:]
    assert back_to(rows) is None


def test_what_was_rolled_back_or_declined_waits_for_a_person_as_does_one_that_serves_the_same() -> None:
    rows = [
        promoted("1", serves="a"),
        promoted("2", serves="b"),
        rolled_back("2", "1", serves="b"),
        decided("declined", "3", serves="c"),
    ]
    assert held_back(rows, "1", "a") is None
    assert (
        held_back(rows, "2", "b")
        == "version 2 was rolled back by anna at then: alarms: only a person promotes it again"
    )
    assert (
        held_back(rows, "4", "b")
        == "the same, as version 2, was rolled back by anna at then: alarms: only a person promotes it again"
    )
    assert "declined" in str(held_back(rows, "3", "c"))
    assert held_back(rows, "5", "d") is None
    rows.append(promoted("2", serves="b", by="anna"))
    assert held_back(rows, "2", "b") is None
    assert held_back(rows, "4", "b") is None


def test_lines_from_before_the_chain_are_read_as_well() -> None:
    old: Row = {
        "as_of": "2025-04-10",
        "version": "2",
        "champion": "1",
        "verdict": "promoted",
        "reasons": ["good"],
        "run": "r",
    }
    assert champions([old, {**old, "version": "3", "verdict": "refused"}]) == ["1", "2"]
    assert held_back([old], "2", "a") is None
