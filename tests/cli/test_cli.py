"""The `mlops` command in processes of its own: what it says and leaves when something is wrong, and what it
makes when nothing is.
"""

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from banks import BANK, SMALL
from dagster import DagsterInstance

from feature_repo.lake.datasets import Lake
from mlops_assets.cli import trainings
from mlops_assets.cli.command_line import main
from mlops_assets.cli.commands import train
from mlops_assets.cli.demo.background import free_port, wait_until_ready
from mlops_assets.cli.output import readable
from mlops_assets.cli.platform import CommandError
from mlops_assets.resources import provenance as provenance_module

pytestmark = pytest.mark.slow

FIRST, AS_OF, LAST = "2025-03-01", "2025-04-10", "2025-04-13"
SCORE_COLUMNS = ["transaction_id", "event_timestamp", "customer_id", "merchant_id", "amount", "fraud_score"]


@dataclass(frozen=True)
class Platform:
    """A folder with a configuration file and a home, and the command on it."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def config(self) -> Path:
        return self.folder / "mlops.toml"

    def configure(self, text: str) -> "Platform":
        self.config.write_text(text)
        return self

    def run(self, *words: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "MLOPS_HOME": str(self.home), "MLOPS_CONFIG": str(self.config)}
        command = [sys.executable, "-m", "mlops_assets", *map(str, words)]
        return subprocess.run(
            command,
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def result(self, *words: object) -> dict[str, Any]:
        """The object on the last line of a command that succeeds."""
        done = self.run(*words, "--json")
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout.splitlines()[-1])
        assert isinstance(answer, dict)
        return answer

    def refuses(self, *words: object, code: int = 1) -> str:
        """The one line of a command that fails before it begins; nothing in the home has changed."""
        before = self.listing()
        done = self.run(*words)
        assert done.returncode == code, done.stderr
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("mlops"), line
        assert self.listing() == before
        return line

    def fails(self, *words: object) -> str:
        """The last line of a command that fails on its way, behind its progress."""
        done = self.run(*words)
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("mlops: ")]
        assert done.stderr.splitlines()[-1] == line
        return line

    def listing(self) -> dict[str, str]:
        """Every file with its digest; a database that was only read may have been tidied up, so its name is
        enough.
        """
        files = [
            path
            for path in self.home.rglob("*")
            if path.is_file() and not path.name.endswith(("-wal", "-shm"))
        ]
        return {
            str(path.relative_to(self.home)): (
                "" if path.suffix == ".db" else hashlib.sha256(path.read_bytes()).hexdigest()
            )
            for path in sorted(files)
        }


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return Platform(tmp_path).configure(SMALL)


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """Six weeks ingested, a first version promoted, and one of a day later refused."""
    made = Platform(tmp_path_factory.mktemp("bank")).configure(BANK)
    made.result("backfill", "--from", FIRST, "--to", LAST)
    first = made.result("train", "--as-of", AS_OF)
    assert (first["version"], first["verdict"], first["champion_before"]) == ("1", "promoted", None), first
    return made


@pytest.fixture(scope="module")
def refused(bank: Platform) -> subprocess.CompletedProcess[str]:
    return bank.run("train", "--as-of", "2025-04-11")


# What is wrong is said in one line, and nothing is left half-written


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("colour = 'red'\n" + SMALL, "unknown key 'colour'"),
        (SMALL + "[model]\ntrain_dayz = 30\n", "[model] unknown key 'train_dayz'"),
        (SMALL + "shops = 3\n", "[source] unknown key 'shops'"),
        (SMALL + "[model]\ntrain_days = 'many'\n", "[model] train_days"),
        (SMALL.replace("2025-03-01\nend", "'yesterday'\nend"), "[time] start"),
        (SMALL.replace('"simulator"', '"crystal ball"'), "kind 'crystal ball' is not known"),
        (SMALL.replace("customers = 40", "customers = 0"), "[source] customers"),
        ("use_case = 'weather'\n" + SMALL, "use_case 'weather' is not known"),
        (SMALL + "[model\n", "mlops.toml"),
    ],
)
def test_a_configuration_that_cannot_be_used_names_the_key(platform: Platform, text: str, named: str) -> None:
    line = platform.configure(text).refuses("backfill", "--from", FIRST, "--to", FIRST)
    assert named in line
    assert not platform.home.exists()


def test_a_configuration_file_that_is_not_there_is_named(platform: Platform) -> None:
    assert "nowhere.toml: no such configuration file" in platform.refuses(
        "--config", "nowhere.toml", "status"
    )


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["backfill", "--from", "2025-03-05", "--to", "2025-03-04"], "from 2025-03-05 to 2025-03-04"),
        (
            ["backfill", "--from", "2025-02-28", "--to", "2025-03-04"],
            "2025-02-28: the platform's arrival days are 2025-03-01 to 2025-04-30",
        ),
        (["backfill", "--from", "2025-03-01", "--to", "2025-05-01"], "2025-05-01"),
        (
            ["train", "--as-of", "2025-03-01"],
            "as of 2025-03-01: the platform's as-of days are 2025-03-02 to 2025-05-01",
        ),
        (["train", "--as-of", "2031-01-01"], "as of 2031-01-01"),
        (
            ["backfill", "--from", "2025-03-05", "--to", "2025-03-04", "--group", "model"],
            "from 2025-03-05 to 2025-03-04",
        ),
        (
            ["backfill", "--from", "2025-03-01", "--to", "2025-03-04", "--group", "model"],
            "as of 2025-03-01: the platform's as-of days are 2025-03-02",
        ),
        (
            ["backfill", "--from", "2025-04-30", "--to", "2025-05-02", "--group", "model", "--step", "2"],
            "as of 2025-05-02",
        ),
        (
            ["compare", "1", "2", "--from", "2025-03-05", "--to", "2025-03-04"],
            "from 2025-03-05 to 2025-03-04",
        ),
        (["compare", "1", "2", "--from", "2025-03-05", "--to", "2025-03-06"], "there is no version 1"),
        (["compare", "1", "1", "--from", "2025-03-05", "--to", "2025-03-06"], "1 and 1 are the same version"),
        (["score", "--from", "2024-03-01", "--to", "2025-03-02", "--out", "scores.parquet"], "2024-03-01"),
        (
            ["score", "--from", "2025-03-01", "--to", "2025-03-02", "--out", "nowhere/scores.parquet"],
            "there is no folder 'nowhere'",
        ),
        (
            ["score", "--from", "2025-03-01", "--to", "2025-03-02", "--out", "scores.parquet"],
            "there is no version yet",
        ),
        (
            [
                "score",
                "--from",
                "2025-03-01",
                "--to",
                "2025-03-02",
                "--out",
                "scores.parquet",
                "--version",
                "9",
            ],
            "there is no version 9",
        ),
        (
            [
                "score",
                "--from",
                "2025-03-01",
                "--to",
                "2025-03-02",
                "--out",
                "scores.parquet",
                "--as-of",
                "2025-03-09",
            ],
            "there is no version as of 2025-03-09: nothing was trained in",
        ),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_starts(
    platform: Platform, words: list[str], named: str
) -> None:
    assert named in platform.refuses(*words)
    assert not platform.home.exists()
    assert [path.name for path in platform.folder.iterdir()] == ["mlops.toml"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "COMMAND"),
        (["teleport"], "teleport"),
        (["train"], "--as-of"),
        (["train", "--as-of", "2025-4-1"], "'2025-4-1' is not a day like 2018-04-01"),
        (["train", "--as-of", "01.04.2025"], "'01.04.2025'"),
        (["train", "--as-of", "2025-02-30"], "'2025-02-30'"),
        (["train", "--as-of", "20250401"], "'20250401'"),
        (
            ["train", "--as-of", "2025-04-01", "--as-of", "2025-04-02"],
            "--as-of: given twice, the second time as 2025-04-02",
        ),
        (
            ["backfill", "--from", "2025-03-01", "--from", "2025-03-02", "--to", "2025-03-03"],
            "--from: given twice",
        ),
        (["backfill", "--from", "2025-03-01", "--to", "2025-03-02", "--group", "models"], "'models'"),
        (
            ["backfill", "--from", "2025-03-01", "--to", "2025-03-02", "--step", "7"],
            "--step: only with --group model, not without a group",
        ),
        (
            ["backfill", "--from", "2025-03-01", "--to", "2025-03-02", "--step", "7", "--group", "ingest"],
            "not with --group ingest",
        ),
        (
            ["backfill", "--from", "2025-03-01", "--to", "2025-03-02", "--step", "0", "--group", "model"],
            "'0' is not a number of days",
        ),
        (["compare", "1", "--from", "2025-03-01", "--to", "2025-03-02"], "OTHER"),
        (
            ["compare", "1", "01", "--from", "2025-03-01", "--to", "2025-03-02"],
            "'01' is not the number of a version, such as 3",
        ),
        (
            ["score", "--from", "2025-03-01", "--to", "2025-03-02", "--out", "a", "--version", ""],
            "'' is not the number of a version",
        ),
        (
            ["score", "--from", "2025-03-01", "--to", "2025-03-02", "--out", "a", "--version", "latest"],
            "'latest' is not the number of a version",
        ),
        (["promote", "v1", "--reason", "I must"], "'v1' is not the number"),
        (["reproduce", "-1"], "'-1' is not the number"),
        (["score", "--from", "2025-03-01", "--to", "2025-03-02"], "--out"),
        (
            [
                "score",
                "--from",
                "2025-03-01",
                "--to",
                "2025-03-02",
                "--out",
                "a",
                "--version",
                "1",
                "--as-of",
                "2025-04-01",
            ],
            "--version",
        ),
        (["--config", "a.toml", "--config", "b.toml", "status"], "--config: given twice"),
        (["serve", "--port", "eighty"], "'eighty'"),
        (["status", "--colour"], "--colour"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(
    words: list[str], named: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert named in line
    assert list(tmp_path.iterdir()) == []


def test_wrong_usage_exits_2_in_a_process_too(platform: Platform) -> None:
    assert "given twice" in platform.refuses(
        "train", "--as-of", "2025-04-01", "--as-of", "2025-04-02", code=2
    )


def test_an_as_of_day_without_data_names_the_days_that_are_missing_and_what_brings_them(
    platform: Platform,
) -> None:
    line = platform.refuses("train", "--as-of", "2025-04-02")
    assert (
        line
        == "mlops: as of 2025-04-02 the arrival days 2025-03-15 to 2025-04-01 are read, and feature_vectors:"
        " nothing materialized for 2025-03-15, 2025-03-16, 2025-03-17 and 15 more; `mlops backfill --from"
        " 2025-03-15 --to 2025-04-01` makes the missing days"
    )
    assert not platform.home.exists()


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--as-of", "2025-03-05"],
        ["backfill", "--from", "2025-03-05", "--to", "2025-03-06", "--group", "model"],
    ],
)
def test_an_as_of_day_without_a_training_day_says_which_is_the_first_one(
    platform: Platform, words: list[str]
) -> None:
    line = platform.refuses(*words)
    assert line.startswith(
        "mlops: as of 2025-03-05: nothing to learn from; the lake has no arrival day yet. Of the days from"
        " 2025-03-01 on, the first 14"
    )
    assert line.endswith("The first as-of day with a training day is 2025-03-30")
    assert not platform.home.exists()


def test_a_source_folder_that_is_missing_is_named_and_nothing_is_ingested(platform: Platform) -> None:
    platform.configure(SMALL.split("[source]")[0] + '[source]\nkind = "files"\npath = "feed"\n')
    line = platform.fails("backfill", "--from", "2025-03-01", "--to", "2025-03-02")
    assert str(platform.folder / "feed") in line
    lake = Lake(platform.home / "lake")
    made = [
        name
        for name in ("raw_transactions", "transactions", "labels", "verdicts", "feature_vectors")
        if lake.partitions(name)
    ]
    assert made == [], "what does not hang on the missing files may be there, empty"


@pytest.mark.parametrize(
    "words", [["doctor"], ["backfill", "--from", FIRST, "--to", FIRST], ["rebuild-online"]]
)
def test_a_home_that_cannot_be_written_to_is_named(
    platform: Platform, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In /proc not even a superuser makes a folder."""
    monkeypatch.setenv("MLOPS_HOME", "/proc/home")
    monkeypatch.setenv("MLOPS_CONFIG", str(platform.config))
    assert main(words) == 1
    assert capsys.readouterr().err == "mlops: /proc/home cannot be written to (No such file or directory)\n"


def test_an_empty_list_says_none() -> None:
    assert (
        readable({"version": "3", "overruled": [], "reasons": ["better"]})
        == "version: 3\noverruled: none\nreasons:\n  - better"
    )


def test_a_home_that_is_a_file_is_named(platform: Platform) -> None:
    platform.home.write_text("not a folder")
    for words in (["doctor"], ["backfill", "--from", FIRST, "--to", FIRST]):
        assert str(platform.home) in platform.refuses(*words)
    assert platform.home.read_text() == "not a folder"


# What a small bank gives


def test_a_promotion_is_told_with_its_reasons_and_a_refusal_is_no_failure(
    bank: Platform, refused: subprocess.CompletedProcess[str]
) -> None:
    assert refused.returncode == 0, refused.stderr
    assert "verdict: refused" in refused.stdout.splitlines()
    assert "reasons:" in refused.stdout.splitlines()
    history = [json.loads(line) for line in (bank.home / "history.jsonl").read_text().splitlines()]
    assert [(entry["version"], entry["kind"]) for entry in history] == [("1", "promoted"), ("2", "refused")]


def test_status_tells_the_days_the_champion_and_the_last_decision(
    bank: Platform, refused: subprocess.CompletedProcess[str]
) -> None:
    told = bank.result("status")
    assert refused.returncode == 0
    assert told["home"] == str(bank.home)
    assert told["config"] == str(bank.config)
    assert (
        told["datasets"]["transactions"]
        == told["datasets"]["feature_vectors"]
        == {
            "days": 44,
            "first": FIRST,
            "last": LAST,
        }
    )
    assert told["champion"] == {"version": "1", "as_of": AS_OF}
    assert (told["last_decision"]["version"], told["last_decision"]["kind"]) == ("2", "refused")
    assert told["last_decision"]["reasons"]


def test_status_and_doctor_say_the_same_to_a_person_and_work_on_an_empty_home(platform: Platform) -> None:
    told = platform.result("status")
    assert (told["champion"], told["last_decision"]) == (None, None)
    assert told["datasets"]["transactions"] == {"days": 0, "first": None, "last": None}
    assert not platform.home.exists(), "looking makes nothing"
    found = platform.result("doctor")
    assert found["graph"] == "23 assets"
    assert found["lightgbm_loads"] is True
    assert found["home"] == str(platform.home)
    assert list(platform.home.iterdir()) == []
    for_people = platform.run("doctor")
    assert for_people.returncode == 0
    assert f"home: {platform.home}" in for_people.stdout.splitlines()


def test_score_writes_a_row_a_transaction_with_the_version_that_was_asked_for(
    bank: Platform, tmp_path: Path
) -> None:
    days = ("--from", "2025-04-09", "--to", "2025-04-11")
    outs = {name: tmp_path / f"{name}.parquet" for name in ("champion", "version", "as_of")}
    told = bank.result("score", *days, "--out", outs["champion"])
    assert (told["version"], told["out"]) == ("1", str(outs["champion"]))
    assert bank.result("score", *days, "--out", outs["version"], "--version", "1")["version"] == "1"
    assert bank.result("score", *days, "--out", outs["as_of"], "--as-of", AS_OF)["version"] == "1"
    table = pq.read_table(outs["champion"])
    assert table.column_names == SCORE_COLUMNS
    vectors = Lake(bank.home / "lake").read(
        "feature_vectors", ["2025-04-09", "2025-04-10", "2025-04-11"], SCORE_COLUMNS[:-1]
    )
    assert table.drop_columns(["fraud_score"]).equals(vectors)
    assert told["rows"] == table.num_rows > 1000
    scores = table.column("fraud_score").to_pylist()
    assert all(0.0 <= score <= 1.0 for score in scores)
    assert len(set(scores)) > 50
    assert pq.read_table(outs["version"]).equals(table)
    assert pq.read_table(outs["as_of"]).equals(table)
    assert sorted(tmp_path.iterdir()) == sorted(outs.values()), "no temporary file stays"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--from", "2025-04-09", "--to", "2025-04-10", "--version", "99"], "no version 99"),
        (
            ["--from", "2025-04-09", "--to", "2025-04-10", "--as-of", "2025-04-09"],
            "trained_model: nothing materialized for 2025-04-09",
        ),
        (
            ["--from", "2025-04-12", "--to", "2025-04-15"],
            "feature_vectors: nothing materialized for 2025-04-14, 2025-04-15",
        ),
    ],
)
def test_a_score_that_cannot_be_made_leaves_the_older_file(
    bank: Platform, tmp_path: Path, words: list[str], named: str
) -> None:
    out = tmp_path / "scores.parquet"
    out.write_text("yesterday's")
    assert named in bank.refuses("score", *words, "--out", out)
    assert out.read_text() == "yesterday's"
    assert list(tmp_path.iterdir()) == [out]


def test_score_onto_a_folder_fails_and_leaves_no_temporary_file(bank: Platform, tmp_path: Path) -> None:
    (tmp_path / "scores.parquet").mkdir()
    line = bank.refuses(
        "score", "--from", "2025-04-09", "--to", "2025-04-09", "--out", tmp_path / "scores.parquet"
    )
    assert line == f"mlops: {tmp_path / 'scores.parquet'} is a folder; --out takes the file to write"
    assert list(tmp_path.iterdir()) == [tmp_path / "scores.parquet"]


# A copy of it, at another path, while the original is elsewhere


@pytest.fixture
def copied(bank: Platform, refused: subprocess.CompletedProcess[str], tmp_path: Path) -> Iterator[Platform]:
    """The original is out of reach until the test of its copy has ended, and not a byte of it has changed
    then.
    """
    assert refused.returncode == 0, refused.stderr
    (folder := tmp_path / "copy of a bank").mkdir()
    copy = Platform(folder).configure(BANK)
    shutil.copytree(bank.home, copy.home)
    away = bank.home.rename(bank.home.with_name("away"))
    before = content(away)
    yield copy
    away.rename(bank.home)
    assert content(bank.home) == before


def content(home: Path) -> dict[str, str]:
    return {
        str(path.relative_to(home)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in home.rglob("*")
        if path.is_file()
    }


def test_a_copy_of_a_home_knows_what_the_original_knew_and_decides_for_itself(
    bank: Platform, copied: Platform, tmp_path: Path
) -> None:
    assert copied.result("status")["champion"] == {"version": "1", "as_of": AS_OF}
    days = ("--from", "2025-04-09", "--to", "2025-04-10")
    assert copied.result("score", *days, "--out", tmp_path / "scores.parquet", "--version", "2")["rows"] > 500
    assert copied.result("promote", "2", "--reason", "the copy tries it")["kind"] == "promoted"
    assert copied.result("rollback", "--reason", "and takes it back")["to"] == "1"
    assert [entry["kind"] for entry in copied.result("history")["entries"]] == [
        "promoted",
        "refused",
        "promoted",
        "rolled_back",
    ]
    for database in (
        "mlflow/mlflow.db",
        "serving/serving.db",
        "dagster/history/runs.db",
        "dagster/history/runs/index.db",
    ):
        text = (copied.home / database).read_bytes()
        assert str(bank.home).encode() not in text, database
        assert database.startswith("dagster") or str(copied.home).encode() not in text, database


def test_a_copy_of_a_home_serves_its_own_champion(copied: Platform) -> None:
    port = free_port()
    words = [sys.executable, "-m", "mlops_assets", "serve", "--port", str(port), "--clock", "event"]
    environment = {**os.environ, "MLOPS_HOME": str(copied.home), "MLOPS_CONFIG": str(copied.config)}
    log = copied.folder / "serving.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(words, cwd=copied.folder, env=environment, stdout=output, stderr=output) as service,
    ):
        try:
            assert wait_until_ready(service, port, log)["model_version"] == "1"
        finally:
            service.terminate()


def test_a_training_that_was_killed_is_ended_by_the_next_one_which_completes(
    copied: Platform, moments: list[float]
) -> None:
    words = [sys.executable, "-m", "mlops_assets", "train", "--as-of", "2025-04-12"]
    environment = {**os.environ, "MLOPS_HOME": str(copied.home), "MLOPS_CONFIG": str(copied.config)}
    for share in moments:
        with subprocess.Popen(
            words, cwd=copied.folder, env=environment, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            first = process.stderr.readline()  # the first step is done
            assert "training_set" in first, first
            time.sleep(4 * share)
            process.kill()
            assert process.wait() == -signal.SIGKILL
    assert copied.result("doctor")["databases"] == "5 can be read"
    trained = copied.result("train", "--as-of", "2025-04-12", "--again")
    assert trained["verdict"] in ("promoted", "refused")
    with DagsterInstance.from_config(str(copied.home / "dagster")) as instance:
        found = [run.status.value for run in instance.get_runs() if run.job_name == "retraining"]
    assert found == ["SUCCESS", *["FAILURE"] * len(moments), "SUCCESS", "SUCCESS"]
    with closing(sqlite3.connect(copied.home / "mlflow" / "mlflow.db")) as connection:
        assert connection.execute("SELECT count(*) FROM runs WHERE status = 'RUNNING'").fetchone() == (0,)
        places = [place for (place,) in connection.execute("SELECT artifact_uri FROM runs")]
        models = [place for (place,) in connection.execute("SELECT storage_location FROM model_versions")]
    assert all(place.startswith("artifacts/") for place in places), places
    assert all((copied.home / "mlflow" / place / "MLmodel").is_file() for place in models), models


# Twice the same


class Trained(Exception):
    """A run was asked for, of some assets or of all."""

    def __init__(self, select: list[str] | None) -> None:
        self.select = select
        super().__init__(f"a run of {self.select or 'everything'}")


@pytest.fixture
def again(bank: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Again":
    return Again(bank, Platform(tmp_path), monkeypatch)


class Again:
    """`mlops train` asked for a second time, on a copy of the bank; a run is not done, only noted."""

    def __init__(self, bank: Platform, mine: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
        import mlflow

        shutil.copytree(bank.home, mine.home)
        mine.configure(BANK)
        monkeypatch.setenv("MLOPS_HOME", str(mine.home))
        monkeypatch.setenv("MLOPS_CONFIG", str(mine.config))
        monkeypatch.setenv("DAGSTER_HOME", str(mine.home / "dagster"))
        # Definitions are of the configuration that was there at their first import: the next test must not
        # get these.
        monkeypatch.setitem(
            sys.modules, "mlops_assets.definitions", sys.modules.get("mlops_assets.definitions")
        )
        del sys.modules["mlops_assets.definitions"]
        self.client = mlflow.MlflowClient(f"sqlite:///{mine.home}/mlflow/mlflow.db")
        recorded = self.client.get_model_version("fraud", "1").tags
        self.now = {
            name: recorded[name]
            for name in ("git_commit", "git_dirty", "code_digest", "config_digest", "lock_digest")
        }
        self.lake = Lake(mine.home / "lake")
        monkeypatch.setattr(provenance_module, "provenance", lambda settings: self.now)
        monkeypatch.setattr(trainings, "retrain", self._note)

    def train(self, again: bool = False) -> None:
        train.run(Namespace(as_of=AS_OF, again=again))

    def _note(self, instance: object, as_of: str, assets: list[str] | None) -> None:
        assert as_of == AS_OF
        raise Trained(assets)


def test_the_same_training_again_is_refused_and_says_which_version_there_is(again: Again) -> None:
    with pytest.raises(
        CommandError, match=f"as of {AS_OF}: version 1 was trained from the same data, configuration and code"
    ):
        again.train()


def test_the_same_training_again_runs_when_it_is_asked_for(again: Again) -> None:
    with pytest.raises(Trained):
        again.train(again=True)


@pytest.mark.parametrize("what", ["code_digest", "config_digest", "lock_digest"])
def test_other_code_configuration_or_lock_file_is_another_training(again: Again, what: str) -> None:
    again.now = {**again.now, what: "another"}
    with pytest.raises(Trained):
        again.train()


def test_another_commit_of_the_same_code_is_no_other_training(again: Again) -> None:
    again.now = {**again.now, "git_commit": "another", "git_dirty": "true"}
    with pytest.raises(CommandError, match="same data, configuration and code"):
        again.train()


def test_a_training_that_was_cut_off_before_its_decision_was_on_record_is_finished_and_not_done_again(
    again: Again,
) -> None:
    Path(again.lake.root).with_name("history.jsonl").unlink()
    again.client.delete_registered_model_tag("fraud", "history")
    with pytest.raises(Trained) as asked:
        again.train()
    assert asked.value.select == ["promoted_version"]
    shutil.rmtree(Path(again.lake.root, "evaluation"))
    with pytest.raises(Trained) as asked:
        again.train()
    assert asked.value.select == ["evaluation", "promoted_version"]


def test_an_evaluation_against_a_champion_that_serves_no_longer_is_done_again(
    refused: subprocess.CompletedProcess[str], again: Again
) -> None:
    Path(again.lake.root).with_name("history.jsonl").unlink()
    again.client.delete_registered_model_tag("fraud", "history")
    again.client.set_registered_model_alias("fraud", "champion", "2")
    with pytest.raises(Trained) as asked:
        again.train()
    assert refused.returncode == 0
    assert asked.value.select == ["evaluation", "promoted_version"]


def test_one_verdict_more_is_other_data(again: Again) -> None:
    day = "2025-04-09"
    verdicts = again.lake.read("verdicts", [day])
    turned = pa.array([not fraud for fraud in verdicts.column("is_fraud").to_pylist()])
    again.lake.write(
        "verdicts",
        day,
        verdicts.set_column(verdicts.column_names.index("is_fraud"), "is_fraud", turned),
        validated=True,
    )
    with pytest.raises(Trained):
        again.train()


def test_a_day_that_was_never_trained_is_trained(again: Again) -> None:
    shutil.rmtree(Path(again.lake.root, "trained_model"))
    with pytest.raises(Trained):
        again.train()
