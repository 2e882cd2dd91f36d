"""Feast's online calls while another process holds the lock on serving's file."""

import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from feast_kit import finished, online, open_with_profiles, pushed, read

from feature_repo.plugins import online_store
from feature_repo.plugins.online_store import StateLocked, reading

HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def store(tmp_path: Path) -> Any:
    return open_with_profiles(tmp_path)


@contextmanager
def held_by_another_process(database: Path) -> Iterator[None]:
    database.parent.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, database], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield
        finally:
            assert process.stdin is not None
            process.stdin.close()


@pytest.mark.fault(24)
def test_a_read_does_not_wait_for_a_writer(store: Any) -> None:
    store.push("transactions_push", pushed())
    store.push("profiles_push", finished())
    online(store)  # which makes what is missing
    with held_by_another_process(store.config.online_store.database):
        started = time.monotonic()
        assert (online(store)["num_txns_1d"], read(store)["risk"]) == (1, 0.5)
        assert time.monotonic() - started < online_store.WAIT_S / 2


@pytest.mark.fault(24)
def test_a_write_gives_up_by_name_after_its_wait(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(online_store, "WAIT_S", 0.3)
    store.push("transactions_push", pushed())
    with held_by_another_process(store.config.online_store.database):
        started = time.monotonic()
        with pytest.raises(StateLocked, match=r"serving\.db: another process has held the lock for 0\.3 s"):
            store.push("transactions_push", pushed(transaction_id="t2"))
        assert time.monotonic() - started < 1.5
    store.push("transactions_push", pushed(transaction_id="t2"))
    assert online(store)["num_txns_1d"] == 2


@pytest.mark.fault(24)
@pytest.mark.parametrize("made", [False, True])
def test_the_very_first_read_gives_up_by_name_after_its_wait(store: Any, made: bool) -> None:
    """Tables have to be made for it: in a file that is not there yet, and in one that is."""
    database = store.config.online_store.database
    if made:
        with reading(database):
            pass
    with held_by_another_process(database):
        started = time.monotonic()
        with pytest.raises(StateLocked):
            online(store)
        assert time.monotonic() - started < online_store.WAIT_S + 1.0
    assert online(store)["num_txns_1d"] == 0


def test_a_read_writes_nothing_where_everything_is_there(store: Any) -> None:
    store.push("transactions_push", pushed())
    database = store.config.online_store.database
    online(store)
    with closing(sqlite3.connect(database)) as connection:
        before = connection.execute("PRAGMA data_version").fetchone()
        online(store)
        assert read(store, ["customer_stats:num_txns_7d"])["num_txns_7d"] == 1
        assert connection.execute("PRAGMA data_version").fetchone() == before
