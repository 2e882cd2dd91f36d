"""Decisions of an earlier version and of today on one home, made again from the log and the lake."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from old_homes import unpack_home
from serving_kit import MINUTE_US, Bench, transaction

from feature_repo.lake.datasets import Lake
from feature_repo.times import to_us
from mlops_assets.cli.command_line import main
from mlops_assets.resources.environments import Settings, load_settings
from mlops_assets.resources.registry import registry_of
from mlops_assets.steps.monitoring import replayed_decision
from mlops_assets.steps.monitoring.replayed_decision import (
    DIFFERENT,
    IDENTICAL,
    NOT_REBUILDABLE,
    Replayed,
)
from mlops_assets.use_cases.fraud.case import FRAUD
from serving.messages import Label, ReadyVector
from serving.releases import Champion
from serving.store.opening import serving_log

pytestmark = pytest.mark.slow

OF_BEFORE = [f"before-{number}" for number in range(6)]
DAY, NEXT = "2025-03-22", "2025-03-23"
START_US = to_us(datetime(2025, 3, 22, 6, tzinfo=UTC))
ASKED = "d150"  # It does not pass, so it has reasons.


@dataclass
class Home:
    """A home of the earlier version, on which the service of today made 200 decisions on two days."""

    folder: Path

    @property
    def settings(self) -> Settings:
        return load_settings(self.folder / "mlops.toml", self.folder / "home")

    @property
    def lake(self) -> Lake:
        return Lake(self.settings.lake_root)

    def replay(self, *ids: str) -> list[Replayed]:
        settings = self.settings
        log = serving_log(settings.serving_db)
        return replayed_decision.replay(FRAUD, self.lake, log, settings, registry_of(settings), ids)

    def change(self, statement: str, *values: object) -> None:
        """Alter the log, as nobody should."""
        with closing(sqlite3.connect(self.settings.serving_db)) as connection, connection:
            assert connection.execute(statement, values).rowcount == 1

    def copied(self, folder: Path) -> Home:
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return Home(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Home:
    folder = tmp_path_factory.mktemp("home")
    unpack_home(folder)
    home = Home(folder)
    registry = registry_of(home.settings)
    version = registry.version("2")
    champion = Champion("2", version.tags["bundle_digest"], *registry.scored_release(version))
    bench = Bench(home.settings.home, champion)
    _serve(bench)
    bench.predict(ReadyVector(dict.fromkeys(champion.release.features, 100.0), "ready"))
    bench.plane.close()
    return home


def _serve(bench: Bench) -> None:
    """Payments of two days: some come late, some have a clock that is ahead, some get a label."""
    chance = random.Random(7)
    for number in range(200):
        at_us = START_US + number * 10 * MINUTE_US
        at_us += chance.choice([0] * 8 + [-200 * MINUTE_US, 15 * MINUTE_US])
        keys = f"C{chance.randrange(20, 40):06d}", f"M{chance.randrange(60):06d}"
        amount = 900.0 if number % 50 == 0 else round(chance.lognormvariate(3, 1.5), 2)
        bench.predict(transaction(f"d{number}", at_us, *keys, amount))
        if number % 10 == 9:
            about = f"d{chance.randrange(number)}"
            bench.plane.add_labels([Label(about, chance.random() < 0.7, START_US + number * 10 * MINUTE_US)])


@pytest.fixture
def home(made: Home, tmp_path: Path) -> Home:
    return made.copied(tmp_path)


def test_every_decision_is_made_again_from_the_log_alone(made: Home) -> None:
    ids = [*OF_BEFORE, *(f"d{number}" for number in range(200)), "ready"]
    replayed = made.replay(*ids)
    assert [one.prediction_id for one in replayed] == ids
    assert {(one.result, one.version, one.differences) for one in replayed} == {(IDENTICAL, "2", ())}
    told = json.loads((made.folder / "answers.json").read_text())[3]["answer"]
    outcome = replayed[3].outcome
    assert outcome is not None
    assert (outcome.score, outcome.decision) == (told["fraud_score"], told["decision"])
    assert [one.feature for one in outcome.reasons] == [one["feature"] for one in told["reasons"]]
    assert made.lake.partitions("transactions")[-1] < DAY


@pytest.mark.parametrize(
    ("column", "alter", "parts"),
    [
        ("fraud_score", lambda score: score + 1e-12, ["score"]),
        ("decision", lambda _: "ALLOW", ["decision"]),
        ("review_threshold", lambda threshold: threshold / 2, ["threshold"]),
        ("block_threshold", lambda threshold: threshold * 2, ["block_threshold"]),
        ("features", lambda text: _with(text, num_txns_1d=999), ["feature num_txns_1d"]),
        ("reasons", lambda text: json.dumps(json.loads(text)[1:]), ["reason 1", "reason 2", "reason 3"]),
        ("reasons", lambda _: '[{"feature": 1}]', ["reason 1", "reason 2", "reason 3"]),
    ],
)
def test_a_row_that_was_altered_is_told_with_both_values(
    home: Home, column: str, alter: Callable[..., object], parts: list[str]
) -> None:
    (row,) = serving_log(home.settings.serving_db).receipts(FRAUD, [ASKED]).to_pylist()
    home.change(f"UPDATE decisions SET {column} = ? WHERE prediction_id = ?", alter(row[column]), ASKED)
    (one,) = home.replay(ASKED)
    assert (one.result, [difference.part for difference in one.differences]) == (DIFFERENT, parts)
    logged, rebuilt = one.differences[0].logged, one.differences[0].rebuilt
    assert logged != rebuilt
    if column == "features":
        assert (logged, rebuilt) == (999, json.loads(row["features"])["num_txns_1d"])


def test_an_event_that_was_altered_changes_its_vector_and_those_after_it(home: Home) -> None:
    log = serving_log(home.settings.serving_db)
    rows = log.receipts(FRAUD, [f"d{number}" for number in range(150, 200)]).to_pylist()
    later = next(row for row in rows[1:] if row["customer_id"] == rows[0]["customer_id"])
    assert later["event_timestamp"] > rows[0]["event_timestamp"]
    home.change("UPDATE decisions SET amount = amount + 1000 WHERE prediction_id = ?", ASKED)
    own, after = home.replay(ASKED, later["prediction_id"])
    assert (own.result, after.result) == (DIFFERENT, DIFFERENT)
    assert "feature txn_amount: logged 900.0, rebuilt 1900.0" in map(str, own.differences)
    assert {one.part for one in after.differences} >= {"feature amount_to_customer_max_90d"}


def test_an_event_that_was_altered_in_the_log_after_the_lake_took_it_is_told(home: Home) -> None:
    log = serving_log(home.settings.serving_db)
    for day in (DAY, NEXT):
        home.lake.write("prediction_log", day, log.decisions(day, FRAUD), validated=True)
    (first,) = log.receipts(FRAUD, ["d9"]).to_pylist()
    home.change("UPDATE decisions SET amount = 1.5, merchant_id = 'M000001' WHERE prediction_id = 'd9'")
    altered, sound = home.replay("d9", "d10")
    told = {one.part: (one.logged, one.rebuilt) for one in altered.differences}
    assert told == {"merchant_id": ("M000001", first["merchant_id"]), "amount": (1.5, first["amount"])}
    assert (altered.result, sound.result) == (DIFFERENT, IDENTICAL)


def _with(text: str, **values: object) -> str:
    return json.dumps({**json.loads(text), **values})


def test_what_cannot_be_rebuilt_says_what_is_missing(home: Home) -> None:
    (one,) = home.replay("nobody's")
    assert (one.result, one.version, one.why) == (
        NOT_REBUILDABLE,
        None,
        "no decision is logged under this id",
    )
    home.change("UPDATE decisions SET model_version = '9' WHERE prediction_id = 'd1'")
    for day in range(10, 21):
        shutil.rmtree(home.settings.home / "lake" / "transactions" / f"2025-03-{day}")
    version, days, sound = home.replay("d1", "d2", "ready")
    assert (version.result, version.version, version.why) == (
        NOT_REBUILDABLE, "9", "the model 'fraud' has no version 9",
    )  # fmt: skip
    assert days.result == NOT_REBUILDABLE
    assert days.why == "neither the lake nor the log has transactions: 2025-03-10 to 2025-03-20, 11 days"
    assert sound.result == IDENTICAL
    for bundle in home.settings.home.glob("mlflow/artifacts/*/artifacts/bundle"):
        shutil.rmtree(bundle)
    (gone,) = home.replay("ready")
    assert gone.result == NOT_REBUILDABLE
    assert gone.why.endswith("no such bundle")


def test_a_copy_in_the_lake_that_was_made_too_early_is_told(home: Home) -> None:
    rows = serving_log(home.settings.serving_db).decisions(DAY, FRAUD)
    home.lake.write("prediction_log", DAY, rows.slice(0, 50), validated=True)
    last = rows["prediction_id"][-1].as_py()
    early, late = home.replay(rows["prediction_id"][0].as_py(), last)
    assert early.result == IDENTICAL
    assert late.result == NOT_REBUILDABLE
    assert f"`mlops backfill --from {DAY} --to {DAY}` makes the day again" in late.why


def test_the_command_counts_names_and_fails_where_a_decision_is_not_as_it_was(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLOPS_HOME", str(home.settings.home))
    monkeypatch.setenv("MLOPS_CONFIG", str(home.folder / "mlops.toml"))
    assert main(["replay", ASKED, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["decisions"], told["identical"], told["different"], told["not_rebuildable"]) == (1, 1, 0, 0)
    (one,) = told["replayed"]
    assert (one["prediction_id"], one["result"], one["differences"]) == (ASKED, IDENTICAL, [])
    assert len(one["features"]) == 46
    assert {*one["reasons"][0]} == {"feature", "value", "contribution"}

    assert main(["replay", "--day", NEXT, "--sample", "9"]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == ["decisions: 9", "identical: 9"]

    home.change("UPDATE decisions SET fraud_score = 0.5 WHERE prediction_id = ?", ASKED)
    assert main(["replay", ASKED, "nobody's"]) == 1
    printed = capsys.readouterr()
    assert printed.err == "mlops: of 2 decisions 1 different, 1 not rebuildable\n"
    assert "    - score: logged 0.5, rebuilt 0." in printed.out
    assert "  why: no decision is logged under this id" in printed.out
    assert main(["replay", "--day", "2025-04-01"]) == 1
    assert capsys.readouterr().err == "mlops: no decision is logged for 2025-04-01\n"


@pytest.mark.parametrize("words", [[], ["d1", "--day", DAY], ["d1", "--sample", "3"], ["--sample", "0"]])
def test_ids_and_a_choice_of_decisions_are_not_given_together(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["replay", *words])
    assert left.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
