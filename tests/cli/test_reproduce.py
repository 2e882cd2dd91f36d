"""`mlops reproduce` as an auditor uses it: another clone, another home, the same data; and the same with one
label changed.
"""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from banks import SMALL
from test_adding_a_feature import copy_of_the_project
from test_cli import Platform

from mlops_assets.use_cases.fraud.simulator import BankSource, SimulatorConfig

FIRST, LAST, AS_OF, LABEL_DAY = date(2025, 3, 1), date(2025, 3, 22), "2025-03-23", "2025-03-12"
CONFIG = """
[time]
start = 2025-03-01
end = 2025-03-31

[source]
kind = "files"
path = "feed/transactions.parquet"

[source.labels]
path = "feed/labels.parquet"
is_fraud = "is_fraud"

[verdicts]
maturity_days = 2

[model]
holdout_days = 5
train_days = 30
warm_up_days = 0

[recipe]
max_rounds = 30
num_threads = 1

[tuning]
trials = 3
folds = 2
fold_days = 4

[gate]
min_positives = 3
"""


@dataclass(frozen=True)
class Clone(Platform):
    """A platform that runs the code of a clone."""

    code: Path

    def run(self, *words: object, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "MLOPS_HOME": str(self.home),
            "MLOPS_CONFIG": str(self.config),
            "PYTHONPATH": str(self.code),
        }
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


@dataclass(frozen=True)
class Rebuilt:
    """What three people were told, at once: each gives the object that the command printed."""

    elsewhere: dict[str, Any]  # from the record, in another clone and another home, on the same data
    one_label_changed: dict[str, Any]  # the same, on data in which one label says something else
    at_home: dict[str, Any]  # where it was trained, after that label was changed in the feed itself
    record: dict[str, Any]


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> Rebuilt:
    folder = tmp_path_factory.mktemp("reproduce")
    git = ["git", "-c", "user.name=Nobody", "-c", "user.email=nobody@example.org"]
    project = copy_of_the_project(folder / "project")
    for words in (["init", "-q", "."], ["add", "-A"], ["commit", "-q", "-m", "as it stands"]):
        subprocess.run([*git, *words], cwd=project, check=True)
    subprocess.run([*git, "clone", "-q", str(project), str(folder / "clone")], check=True)

    first, same, other = (
        Clone(folder / name, folder / code)
        for name, code in (("first", "project"), ("same", "clone"), ("other", "clone"))
    )
    deliver(first.folder)
    for one in (same, other):
        shutil.copytree(first.folder, one.folder)
    first.configure(CONFIG)
    first.result("backfill", "--from", FIRST, "--to", LAST)
    assert first.result("train", "--as-of", AS_OF)["version"] == "1"
    (record,) = first.home.glob("mlflow/artifacts/*/artifacts/provenance.json")
    # The others were given the record and the data: what they have configured themselves says only where the
    # data lie.
    for one in (same, other):
        one.configure(CONFIG.replace("max_rounds = 30", "max_rounds = 10"))
    for one in (first, other):
        change_a_label(one.folder / "feed" / "labels.parquet")
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(one.result, "reproduce", "1", "--record", record) for one in (same, other)]
        asked.append(pool.submit(first.result, "reproduce", "1"))
        told = [one.result() for one in asked]
    for code in (project, folder / "clone"):
        trees = subprocess.run(
            [*git, "worktree", "list"], cwd=code, capture_output=True, text=True, check=True
        ).stdout
        assert len(trees.splitlines()) == 1, trees
    assert not same.home.exists()
    return Rebuilt(*told, json.loads(record.read_text()))


@pytest.mark.slow
def test_another_clone_and_another_home_on_the_same_data_give_identical_digests(rebuilt: Rebuilt) -> None:
    told, days = rebuilt.elsewhere, (LAST - FIRST).days + 1
    assert (told["version"], told["identical"], told["differs"]) == ("1", True, [])
    assert told["rebuilt"] == told["recorded"]
    assert told["recorded"]["model"] == rebuilt.record["models"]["release"]
    assert told["inputs"] == {"from the lake": 0, "from the source": 2 * days}


@pytest.mark.slow
def test_one_label_changed_is_named_with_its_day_and_what_came_of_it(rebuilt: Rebuilt) -> None:
    told = rebuilt.one_label_changed
    assert told["identical"] is False
    assert told["differs"][:3] == [f"raw_labels {LABEL_DAY}", f"labels {LABEL_DAY}", f"verdicts {LABEL_DAY}"]
    assert told["differs"][-3:] == ["training_set", "evaluation_fit", "model"]
    assert not [
        name
        for name in told["differs"]
        if "transactions" in name or "customer_stats" in name or "package" in name
    ]
    assert told["rebuilt"]["model"] not in (None, told["recorded"]["model"])


@pytest.mark.slow
def test_where_it_was_trained_the_lake_still_has_what_came_in_whatever_the_feed_says_by_now(
    rebuilt: Rebuilt,
) -> None:
    told = rebuilt.at_home
    assert (told["identical"], told["differs"]) == (True, [])
    assert told["recorded"] == rebuilt.elsewhere["recorded"]
    assert told["inputs"]["from the source"] == 0


@pytest.mark.slow
def test_a_record_holds_the_configuration_and_every_day_of_input(rebuilt: Rebuilt) -> None:
    record = rebuilt.record
    assert record["config"] == CONFIG
    assert record["recipe"]["tuning.trials"] == 3
    assert (record["code"]["git_dirty"], len(record["code"]["git_commit"])) == ("false", 40)
    assert list(record["partitions"]["raw_labels"])[0::21] == [FIRST.isoformat(), LAST.isoformat()]
    assert list(record["partitions"]["feature_vectors"]) == list(record["partitions"]["raw_labels"]), (
        "no day is too old to be trained on"
    )


def test_a_version_that_is_not_here_and_a_record_that_is_none_are_named(tmp_path: Path) -> None:
    platform = Platform(tmp_path).configure(SMALL)
    assert "there is no version 3: nothing was trained in" in platform.refuses("reproduce", "3")
    assert "nowhere.json: cannot be read" in platform.refuses("reproduce", "3", "--record", "nowhere.json")
    assert "mlops.toml: is no record of a version" in platform.refuses(
        "reproduce", "3", "--record", "mlops.toml"
    )
    assert not platform.home.exists()


# A feed


def deliver(folder: Path) -> None:
    """Three weeks of a small bank as two files."""
    (folder / "feed").mkdir(parents=True)
    bank = BankSource(
        SimulatorConfig(start=FIRST, customers=300, merchants=150, seed=3, label_median_hours=14.0)
    )
    for name, table in (
        ("transactions", bank.transactions(FIRST, LAST)),
        ("labels", bank.labels(FIRST, LAST)),
    ):
        pq.write_table(table.drop_columns(["arrival_day", "malformed"]), folder / "feed" / f"{name}.parquet")


def change_a_label(file: Path) -> None:
    """The first fraud that was reported on LABEL_DAY is said to be none."""
    labels = pq.read_table(file)
    days = pc.strftime(labels.column("label_timestamp"), format="%Y-%m-%d").to_pylist()
    said = labels.column("is_fraud").to_pylist()
    said[next(row for row, day in enumerate(days) if day == LABEL_DAY and said[row])] = False
    pq.write_table(labels.set_column(labels.column_names.index("is_fraud"), "is_fraud", pa.array(said)), file)
