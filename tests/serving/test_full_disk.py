"""A full or read-only disk under the service: a clear error, no pointer moved, and it goes on with room."""

from __future__ import annotations

import contextlib
import io
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
from disk_kit import full, may_mount, on_a_disk, read_only
from http_kit import Door
from serving_kit import ALLOW_ALL, Bench, fraud_service_plan, paid, payment, tiny_release
from shelf_kit import Shelf

from serving.__main__ import COULD_NOT_START, main
from serving.contract.before_subjects import BEFORE
from serving.releases import LAST_GOOD
from serving.store.opening import serving_store
from serving.store.upkeep import Upkeep

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not may_mount(), reason="a process can have no disk of its own here"),
]
ANSWERED, MORE = 30, 400


@pytest.mark.fault(25)
def test_requests_on_a_full_disk_are_refused_by_name_and_taken_once_there_is_room(tmp_path: Path) -> None:
    on_a_disk(tmp_path / "disk", "64m", "test_full_disk:ask_on_a_full_disk")


def ask_on_a_full_disk(disk: Path) -> None:
    door = Door(disk / "home", tiny_release(fraud_service_plan(), policy=ALLOW_ALL))
    door.promote()
    plane, answers = door.service.plane, dict[int, str]()
    opened = partial(serving_store, door.service.settings.database, patient=True)
    upkeep = Upkeep(opened, lambda: door.champion.release, plane.counts, plane.between_requests)

    def ask(number: int) -> bool:
        """Whether it is answered. The answer is the same each time."""
        answer = door.post("/predict", transaction=payment(number))
        if answer.status_code == 200:
            assert answers.setdefault(number, answer.text) == answer.text
            return True
        (problem,) = answer.json()["detail"]
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert problem == {
            "type": "store_failed", "loc": [], "msg": "serving.db: database or disk is full",
        }  # fmt: skip
        return False

    def logged() -> list[str]:
        return sorted(str(i) for i in door.log.decisions("2018-04-01", BEFORE)["prediction_id"].to_pylist())

    def ids(numbers: range | dict[int, str]) -> list[str]:
        return sorted(f"t{number}" for number in numbers)

    upkeep.start()
    assert all(ask(number) for number in range(ANSWERED))
    with full(disk):
        refused = [number for number in range(ANSWERED, MORE) if not ask(number)]
        assert len(refused) > 10, "the journal has room for some"
        batch = door.post("/predict/batch", rows=[{"transaction": payment(n)} for n in refused[-5:]])
        assert (batch.status_code, batch.json()["detail"][0]["type"]) == (503, "store_failed")
        assert ask(0), "a stored answer needs no room"
        assert door.ask("GET", "/health/live").status_code == 200
        until(lambda: upkeep.trouble.endswith("database or disk is full"))
        assert logged() == ids(answers), "and nothing of what was refused"
    assert all(ask(number) for number in refused)
    until(lambda: upkeep.trouble == "")
    upkeep.stop()
    assert all(ask(number) for number in range(MORE))
    assert logged() == ids(range(MORE))
    state = plane.between_requests(lambda store: store.state)
    assert (state.count("transactions"), state.count("verdicts")) == (MORE, MORE)
    plane.close()
    again = Bench(disk / "home", door.champion)
    assert again.connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert again.predict(paid(MORE)).repeated is False
    again.plane.close()


@pytest.mark.fault(25)
def test_a_release_that_finds_no_room_moves_no_pointer_and_comes_once_there_is_room(tmp_path: Path) -> None:
    on_a_disk(tmp_path / "disk", "16m", "test_full_disk:follow_on_a_full_disk", str(tmp_path))


def follow_on_a_full_disk(disk: Path, elsewhere: str) -> None:
    plan = fraud_service_plan()
    shelf = Shelf(Path(elsewhere), plan, disk / "home")
    no_room = rf"No space left on device: .* -> .*{re.escape(str(disk))}/home/serving/bundles/"
    last_good = shelf.settings.folder / LAST_GOOD
    with patch("serving.releases.check_release"):
        assert shelf.poll() == "1"
        before = last_good.read_bytes()
        shelf.named = shelf.put("2", tiny_release(plan, seed=1))
        with full(disk):
            for _ in range(3):
                with pytest.raises(OSError, match=no_room):  # The follower's thread logs it and goes on.
                    shelf.poll()
                current = shelf.follower.current
                assert current is not None
                assert (current.version, last_good.read_bytes()) == ("1", before)
            assert [one.name for one in (shelf.settings.folder / "bundles").iterdir()] == [current.digest]
        assert shelf.poll() == "2"
        assert last_good.read_bytes() != before
    assert shelf.outcomes == ["swapped", "swapped"]


@pytest.mark.fault(25)
def test_a_service_on_a_full_or_read_only_disk_does_not_start_and_says_why(tmp_path: Path) -> None:
    on_a_disk(tmp_path / "disk", "1m", "test_full_disk:start_on_a_bad_disk")


def start_on_a_bad_disk(disk: Path) -> None:
    home = disk / "home"
    home.mkdir()

    def refused() -> str:
        with contextlib.redirect_stderr(io.StringIO()) as told:
            assert main(["--home", str(home), "--clock", "event"]) == COULD_NOT_START
        (line,) = told.getvalue().splitlines()
        return line

    with full(disk):
        line = f"error: {home}/serving/serving.db cannot be opened for writing (database or disk is full)"
        assert refused() == line
    serving_store(home / "serving" / "serving.db").close()
    read_only(disk, True)
    try:
        assert refused() == "error: serving.db cannot be read (unable to open database file)"
    finally:
        read_only(disk, False)
    serving_store(home / "serving" / "serving.db").close()


def until(holds: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
