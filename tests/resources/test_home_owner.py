"""A home belongs to one use case. Another one is refused, whatever the home holds."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from test_home import of_before

from feature_repo.store import open_store
from mlops_assets.cli.command_line import main
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.home_owner import ForeignHome, Owner
from mlops_assets.resources.lake import lake_of
from mlops_assets.use_cases import USE_CASES
from serving.store.sqlite.log_tables import create_tables

FRAUD, PARCELS = (Owner.of(USE_CASES[name]) for name in ("fraud", "parcels"))


def named(home: Path) -> str | None:
    file = home / "home.json"
    found: str | None = json.loads(file.read_text()).get("use_case") if file.exists() else None
    return found


def test_whoever_opens_the_lake_of_a_new_home_owns_the_home(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    lake_of(settings, USE_CASES["parcels"]).open()
    assert named(tmp_path) == "parcels"
    lake_of(settings, USE_CASES["parcels"]).open()
    with pytest.raises(
        ForeignHome,
        match=re.escape(
            f"{tmp_path}: this home belongs to the use case 'parcels', and the configuration names 'fraud';"
        )
        + ".*MLOPS_HOME",
    ):
        lake_of(settings, USE_CASES["fraud"]).open()
    assert named(tmp_path) == "parcels"


def test_a_home_that_holds_nothing_belongs_to_nobody(tmp_path: Path) -> None:
    FRAUD.check(tmp_path)
    PARCELS.check(tmp_path)
    assert list(tmp_path.iterdir()) == []


def with_log(home: Path) -> None:
    (home / "serving").mkdir()
    with closing(sqlite3.connect(home / "serving" / "serving.db", isolation_level=None)) as connection:
        create_tables(connection, USE_CASES["fraud"].subject)


def with_features(home: Path) -> None:
    open_store(home, "feature_repo.fraud")


def with_features_of_before(home: Path) -> None:
    """The first feature stores held a digest alone."""
    with_features(home)
    applied = home / "feast" / "applied"
    applied.write_text(applied.read_text().split()[1])


@pytest.mark.parametrize(
    ("fill", "found"),
    [
        (with_log, "fraud"),
        (with_features, "fraud"),
        (with_features_of_before, "fraud"),
        pytest.param(of_before, "fraud", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("layout", [None, {"format": 2}])
def test_what_an_older_home_holds_tells_whose_it_is(
    tmp_path: Path, fill: Callable[[Path], object], found: str, layout: dict[str, int] | None
) -> None:
    fill(tmp_path)
    if layout:
        (tmp_path / "home.json").write_text(json.dumps(layout))
    for refused in (PARCELS.check, PARCELS.claim):
        with pytest.raises(ForeignHome, match=f"use case '{found}', and the configuration names 'parcels'"):
            refused(tmp_path)
    assert named(tmp_path) is None
    FRAUD.check(tmp_path)
    FRAUD.claim(tmp_path)
    assert json.loads((tmp_path / "home.json").read_text()) == {"format": 2, "use_case": "fraud"}


@pytest.mark.parametrize("place", ["serving/serving.db", "mlflow/mlflow.db"])
def test_a_damaged_database_is_left_to_the_command_that_needs_it(tmp_path: Path, place: str) -> None:
    (tmp_path / place).parent.mkdir()
    (tmp_path / place).write_bytes(b"what was a database" * 1000)
    PARCELS.check(tmp_path)
    (tmp_path / "feast").mkdir()
    (tmp_path / "feast" / "applied").write_text("feature_repo.fraud 0")
    with pytest.raises(ForeignHome, match="'fraud'"):
        PARCELS.check(tmp_path)


@pytest.mark.parametrize("words", ["status", "history", "doctor", "serve", "train --as-of 2025-04-10"])
def test_every_command_refuses_the_home_of_another_use_case(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home, config = tmp_path / "var", tmp_path / "parcels.toml"
    home.mkdir()
    FRAUD.claim(home)
    config.write_text('use_case = "parcels"\n[source]\nkind = "simulator"\n')
    monkeypatch.setenv("MLOPS_HOME", str(home))
    monkeypatch.setenv("MLOPS_CONFIG", str(config))
    assert main(words.split()) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"mlops: {home}: this home belongs to the use case 'fraud', and")
    assert sorted(path.name for path in home.iterdir()) == ["home.json", "prepare.lock"]
