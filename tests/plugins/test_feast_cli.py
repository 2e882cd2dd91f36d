"""Feast's own command line, in real processes."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from feast_kit import START, Bank, make_bank

from feature_repo.roots import serving_db
from feature_repo.store import REPO

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::RuntimeWarning")]


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return make_bank(tmp_path_factory.mktemp("bank"))


def home_of(bank: Bank, folder: Path) -> Path:
    """A home with the bank's lake in it."""
    folder.mkdir()
    (folder / "lake").symlink_to(bank.home / "lake")
    return folder


def run(home: Path, *command: str) -> str:
    """Started beside the home, which MLOPS_HOME names by a relative path; `var` is the home where it is not
    set.
    """
    environment = {k: v for k, v in os.environ.items() if k != "MLOPS_HOME"} | {"FEAST_USAGE": "False"}
    if home.name != "var":
        environment["MLOPS_HOME"] = home.name
    program = [Path(sys.executable).with_name("feast"), "-c", REPO, *command]
    done = subprocess.run(
        program, cwd=home.parent, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def events(home: Path) -> tuple[int, ...]:
    with closing(sqlite3.connect(serving_db(home))) as connection:
        return tuple(
            connection.execute(f"SELECT count(*) FROM online_{s}").fetchone()[0]
            for s in ("transactions", "verdicts")
        )


def known(bank: Bank, until: pd.Timestamp) -> int:
    return int((bank.transactions["created_timestamp"] <= until).sum())


def test_without_a_home_in_the_environment_it_is_var(bank: Bank, tmp_path: Path) -> None:
    home = home_of(bank, tmp_path / "var")
    run(home, "apply")
    run(home, "materialize", START.isoformat(), (START + pd.Timedelta("3d")).isoformat())
    assert events(home)[0] == known(bank, START + pd.Timedelta("3d"))
    assert {p.name for p in tmp_path.iterdir()} == {"var"}


def test_every_command_works_on_a_home_that_the_environment_names(bank: Bank, tmp_path: Path) -> None:
    home = home_of(bank, tmp_path / "set")
    feast = partial(run, home)
    feast("apply")
    listed = feast("feature-views", "list")
    assert all(
        name in listed
        for name in ("customer_stats", "merchant_stats", "merchant_activity", "transaction_context")
    )
    assert "fraud_v1" in feast("feature-services", "list")
    assert {"customer", "merchant"} <= set(feast("entities", "list").split())
    assert (home / "feast" / "registry.db").exists()
    assert {p.name for p in tmp_path.iterdir()} == {"set"}

    first, second = START + pd.Timedelta("3d"), START + pd.Timedelta("8d")
    feast("materialize", START.isoformat(), first.isoformat())
    assert events(home)[0] == known(bank, first)
    assert first.strftime("from %Y-%m-%d") in plain(feast("materialize-incremental", second.isoformat()))
    after = events(home)
    assert after[0] == known(bank, second)
    assert second.strftime("from %Y-%m-%d") in plain(feast("materialize-incremental", second.isoformat()))
    assert events(home) == after

    with closing(sqlite3.connect(serving_db(home))) as connection, connection:
        connection.execute("CREATE TABLE decisions (id)")
        connection.execute("INSERT INTO decisions VALUES ('d1')")
    feast("teardown")
    assert events(home) == (0, 0)
    with closing(sqlite3.connect(serving_db(home))) as connection:
        assert connection.execute("SELECT count(*) FROM decisions").fetchone() == (1,)


def plain(text: str) -> str:
    """Without the colours of a terminal."""
    return text.replace("\x1b[1m\x1b[32m", "").replace("\x1b[0m", "")
