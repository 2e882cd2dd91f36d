"""The history: appended and never changed unseen, whole after a crash, and readable where it began before
there were digests.
"""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from mlops_assets.resources.decision_history import ORIGIN, Head, History, HistoryError, sealed


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(path=str(tmp_path / "new" / "history.jsonl"))


def lines(history: History) -> list[str]:
    return Path(history.path).read_text().splitlines(keepends=True)


def rewrite(history: History, content: list[str]) -> None:
    Path(history.path).write_text("".join(content))


def numbers(history: History) -> list[Any]:
    return [entry["n"] for entry in history.entries()]


def test_entries_come_back_in_their_order_each_sealed_with_the_one_before_it(history: History) -> None:
    assert history.entries() == []
    assert history.head() == Head(0, ORIGIN)
    first, second = history.append({"n": 1}), history.append({"n": 2, "reasons": ["größer als 0"]})
    assert history.entries() == [first, second]
    assert (first["previous"], second["previous"]) == (ORIGIN, first["digest"])
    assert first == sealed({"n": 1}, ORIGIN)
    assert history.head() == Head(2, second["digest"])


@pytest.mark.parametrize("written", range(len(json.dumps(sealed({"n": 2}, "0" * 64), sort_keys=True)) + 2))
def test_a_crash_anywhere_in_an_append_loses_nothing_that_was_there_and_nothing_that_comes(
    history: History, written: int
) -> None:
    history.append({"n": 1})
    history.append({"n": 2})
    first, second = lines(history)
    rewrite(history, [first, second[:written]])
    survived = [2] if written >= len(second) - 1 else []
    assert numbers(history) == [1, *survived]
    history.append({"n": 3})
    assert numbers(history) == [1, *survived, 3]
    assert len(lines(history)) == len(numbers(history))


@pytest.fixture
def five(history: History) -> History:
    for n in range(1, 6):
        history.append({"n": n, "reasons": ["better"]})
    return history


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (
            lambda rows: [*rows[:2], rows[2].replace("better", "worse"), *rows[3:]],
            "line 3 was altered: its digest",
        ),
        (lambda rows: [*rows[:2], rows[2].replace('"n"', ' "n"'), *rows[3:]], "line 3 was altered"),
        (lambda rows: [*rows[:2], *rows[3:]], "line 3 does not follow from the line before it"),
        (lambda rows: rows[1:], "line 1 does not follow"),
        (lambda rows: [rows[0], rows[2], rows[1], *rows[3:]], "line 2 does not follow"),
        (lambda rows: [*rows[:2], rows[0], *rows[2:]], "line 3 does not follow"),
        (lambda rows: [*rows, '{"n": 6}\n'], "line 6 has no digest"),
        (lambda rows: ['{"n": 0}\n', *rows], "line 2 does not follow"),
        (lambda rows: [*rows[:2], rows[2][:-20] + "\n", *rows[3:]], "line 3 is no entry"),
        (lambda rows: [*rows[:2], "\n", *rows[2:]], "line 3 is no entry"),
        (
            lambda rows: [
                *rows[:2],
                json.dumps(sealed({"n": 3, "reasons": ["worse"]}, "1" * 64), sort_keys=True) + "\n",
                *rows[3:],
            ],
            "line 3 does not",
        ),
    ],
)
def test_a_line_that_was_altered_removed_or_put_in_is_named(five: History, spoil: Any, named: str) -> None:
    rewrite(five, spoil(lines(five)))
    for look in (five.entries, five.head, lambda: five.append({"n": 6})):
        with pytest.raises(HistoryError, match=rf"history\.jsonl: {named}"):
            look()


def test_a_history_that_was_written_again_from_an_altered_line_on_is_not_what_is_known_elsewhere(
    five: History,
) -> None:
    known = five.head().to_json()
    kept = [row["n"] for row in five.entries()]
    Path(five.path).unlink()
    for n in kept:
        five.append({"n": n, "reasons": ["worse" if n == 3 else "better"]})
    assert five.entries()
    with pytest.raises(
        HistoryError, match="line 5 is not the line that MLflow knows of: the file was written again"
    ):
        five.unconfirmed(known)


@pytest.mark.parametrize("left", range(5))
def test_an_end_that_was_removed_shows_in_what_is_known_elsewhere(five: History, left: int) -> None:
    known = five.head().to_json()
    rewrite(five, lines(five)[:left])
    assert numbers(five) == list(range(1, left + 1))
    with pytest.raises(
        HistoryError, match=f"line {left + 1} is missing: it has {left} lines, and MLflow knows of 5"
    ):
        five.unconfirmed(known)


def test_lines_that_a_crash_left_unnoted_are_told_apart(five: History) -> None:
    known = five.head().to_json()
    assert five.unconfirmed(known) == []
    five.append({"n": 6})
    assert [row["n"] for row in five.unconfirmed(known)] == [6]
    assert len(five.unconfirmed(None)) == 6


def test_lines_from_before_there_were_digests_are_taken_at_the_beginning_and_sealed_by_the_next_one(
    history: History,
) -> None:
    Path(history.path).parent.mkdir()
    old = ['{"n": 1, "verdict": "promoted"}\n', '{"n":2}\n']
    rewrite(history, old)
    assert numbers(history) == [1, 2]
    known = history.head().to_json()
    assert history.unconfirmed(known) == []
    assert history.append({"n": 3})["previous"] not in ("", ORIGIN)
    assert numbers(history) == [1, 2, 3]
    rewrite(history, [old[0], '{"n":7}\n', lines(history)[2]])
    with pytest.raises(HistoryError, match="line 3 does not follow"):
        history.entries()


def test_a_history_stripped_of_its_digests_is_not_what_is_known_elsewhere(five: History) -> None:
    known = five.head().to_json()
    rewrite(five, [json.dumps({"n": row["n"]}) + "\n" for row in five.entries()])
    assert numbers(five) == [1, 2, 3, 4, 5]
    with pytest.raises(HistoryError, match="line 5 is not the line that"):
        five.unconfirmed(known)


def _write(path: str, who: int) -> None:
    for n in range(25):
        History(path=path).append({"n": n, "who": who})


@pytest.mark.slow
def test_writers_take_turns(history: History) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(history.path, who)) for who in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    rows = history.entries()
    assert len(rows) == 100
    for who in range(4):
        assert [row["n"] for row in rows if row["who"] == who] == list(range(25))
