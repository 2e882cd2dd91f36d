"""A walk-forward over past as-of days and a comparison of two of its versions: killed in the middle, resumed,
and nothing decided by any of it.
"""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from banks import TINY_BANK
from dagster import AssetKey, DagsterInstance, DagsterRunStatus
from test_cli import Platform

from feature_repo.lake.datasets import Lake
from mlops_assets.cli.command_line import main
from mlops_assets.cli.trainings import one_at_a_time
from mlops_assets.resources.environments import load_settings
from mlops_assets.resources.registry import registry_of

pytestmark = pytest.mark.slow

FIRST, LAST = "2025-03-01", "2025-03-30"
AS_OF = ["2025-03-20", "2025-03-23", "2025-03-26"]
WALK = ("backfill", "--group", "model", "--from", AS_OF[0], "--to", AS_OF[2], "--step", 3)
COMPARED = ("--from", "2025-03-24", "--to", "2025-03-28")


PREPARE = """
import sys
from mlops_assets.cli.command_line import main
from mlops_assets.resources.environments import load_settings
from mlops_assets.resources.registry import registry_of
from mlops_assets.cli.trainings import one_at_a_time

first, last, as_of = sys.argv[1:]
assert main(["backfill", "--from", first, "--to", last]) == 0
assert main(["train", "--as-of", as_of]) == 0
"""


@dataclass(frozen=True)
class Walked:
    """A bank whose first as-of day has a champion; a walk over three was killed on the second, and again on
    the third, and then came to its end.
    """

    platform: Platform
    before: dict[str, bytes]
    after: dict[str, bytes]
    told: list[str]
    answer: dict[str, Any]

    @property
    def lake(self) -> Lake:
        return Lake(self.platform.home / "lake")


def decided(home: Path) -> dict[str, bytes]:
    """What decisions leave: the history, and what was promoted."""
    files = [home / "history.jsonl", *sorted((home / "lake" / "promoted_version").rglob("*.*"))]
    return {str(path.relative_to(home)): path.read_bytes() for path in files}


def started(platform: Platform, words: Sequence[object]) -> subprocess.Popen[str]:
    environment = {**os.environ, "MLOPS_HOME": str(platform.home), "MLOPS_CONFIG": str(platform.config)}
    command = [sys.executable, "-m", "mlops_assets", *map(str, words)]
    return subprocess.Popen(
        command,
        cwd=platform.folder,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def kill_at(platform: Platform, line: str, after: str) -> list[str]:
    """Start the walk and kill it with no time to tidy up once it says `line` after `after`; what it had said
    by then.
    """
    said: list[str] = []
    with started(platform, WALK) as process:
        assert process.stderr is not None
        for text in process.stderr:
            said.append(text.strip())
            if line in text and any(after in earlier for earlier in said):
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL, said
    return said


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Walked:
    platform = Platform(tmp_path_factory.mktemp("walk")).configure(TINY_BANK)
    environment = {**os.environ, "MLOPS_HOME": str(platform.home), "MLOPS_CONFIG": str(platform.config)}
    subprocess.run(
        [sys.executable, "-c", PREPARE, FIRST, LAST, AS_OF[0]],
        cwd=platform.folder,
        env=environment,
        check=True,
        capture_output=True,
    )
    before = decided(platform.home)
    kill_at(
        platform,
        "choosing the number of rounds",
        after=f"1 of 3: as of {AS_OF[0]}: is there already as version 1",
    )
    kill_at(
        platform, "trained_model            done", after=f"2 of 3: as of {AS_OF[1]}: trained as version 2"
    )
    done = platform.run(*WALK, "--json")
    assert done.returncode == 0, done.stderr
    return Walked(
        platform,
        before,
        decided(platform.home),
        done.stderr.splitlines(),
        json.loads(done.stdout.splitlines()[-1]),
    )


def test_a_training_that_is_interrupted_exits_130_and_is_failed_in_mlflow(walked: Walked, here: None) -> None:
    with started(walked.platform, ("train", "--as-of", AS_OF[1], "--again")) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "choosing the number of rounds" in line:
                process.send_signal(signal.SIGINT)
        assert (
            line == "mlops: interrupted; what was written is whole, and the same command goes on from there\n"
        )
    assert process.returncode == 130
    registry = registry_of(load_settings())
    (run, *_) = registry.client().search_runs(
        [registry.client().get_experiment_by_name("fraud").experiment_id], order_by=["start_time DESC"]
    )
    assert (run.info.status, run.data.tags["error"]) == ("FAILED", "interrupted")


@pytest.fixture
def here(walked: Walked, monkeypatch: pytest.MonkeyPatch) -> None:
    """The walked platform is that of this process."""
    monkeypatch.setenv("MLOPS_HOME", str(walked.platform.home))
    monkeypatch.setenv("MLOPS_CONFIG", str(walked.platform.config))
    monkeypatch.setenv("DAGSTER_HOME", str(walked.platform.home / "dagster"))
    # Definitions are of the configuration that was there at their first import: neither these for another
    # test, nor another's here.
    monkeypatch.setitem(sys.modules, "mlops_assets.definitions", sys.modules.get("mlops_assets.definitions"))
    del sys.modules["mlops_assets.definitions"]


@pytest.fixture
def said(here: None, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """A command in this process: what it printed, or its error."""

    def say(*words: object) -> str:
        code = main([str(word) for word in words])
        told = capsys.readouterr()
        return told.err if code else told.out

    return say


def test_a_resume_does_only_what_the_kills_left_undone(walked: Walked) -> None:
    steps = [line for line in walked.told if " of 3: " in line]
    assert steps == [
        f"1 of 3: as of {AS_OF[0]}: is there already as version 1",
        f"2 of 3: as of {AS_OF[1]}: is there already as version 2",
        f"3 of 3: as of {AS_OF[2]}: evaluated version 3, which was trained already",
    ]
    assert not [line for line in walked.told if "trained_model" in line or "training_set" in line]
    assert [walked.lake.read("trained_model", [day]).to_pylist()[0]["version"] for day in AS_OF] == [
        "1",
        "2",
        "3",
    ]
    assert [walked.lake.read("evaluation", [day]).to_pylist()[0]["version"] for day in AS_OF] == [
        "1",
        "2",
        "3",
    ]


def test_runs_that_were_killed_are_marked_failed(walked: Walked, here: None) -> None:
    with DagsterInstance.get() as instance:
        runs = sorted(instance.get_run_records(), key=lambda record: record.storage_id)
    found = [
        (
            record.dagster_run.job_name,
            record.dagster_run.tags.get("dagster/partition"),
            record.dagster_run.status,
        )
        for record in runs
    ]
    failed, fine = DagsterRunStatus.FAILURE, DagsterRunStatus.SUCCESS
    assert ("walk_forward_report", None, fine) in found
    end = found.index(("walk_forward_report", None, fine)) + 1
    assert found[end - 6 : end] == [
        ("retraining", AS_OF[0], fine),
        ("retraining", AS_OF[1], failed),
        ("retraining", AS_OF[1], fine),
        ("retraining", AS_OF[2], failed),
        ("retraining", AS_OF[2], fine),
        ("walk_forward_report", None, fine),
    ]
    walk = [record.dagster_run for record in runs[end - 5 : end - 1]]
    assert all(
        run.asset_selection and AssetKey("promoted_version") not in run.asset_selection for run in walk
    ), "no retraining waits for them"


def test_a_walk_decides_nothing(walked: Walked) -> None:
    assert walked.after == walked.before
    assert [json.loads(line)["kind"] for line in walked.after["history.jsonl"].splitlines()] == ["promoted"]
    assert {name.split("/")[2] for name in walked.after if name != "history.jsonl"} == {AS_OF[0]}


def test_the_report_measures_each_version_on_the_days_after_its_own(walked: Walked) -> None:
    weeks, lake = walked.answer["weeks"], walked.lake
    assert [(week["as_of"], week["last_day"], week["version"], week["days"]) for week in weeks] == [
        (AS_OF[0], "2025-03-22", "1", 3),
        (AS_OF[1], "2025-03-25", "2", 3),
        (AS_OF[2], "2025-03-28", "3", 3),
    ]
    rows = [
        sum(
            m.rows
            for m in lake.manifests(
                "feature_vectors", lake.between("feature_vectors", w["as_of"], w["last_day"])
            )
        )
        for w in weeks
    ]
    assert [week["rows"] for week in weeks] == rows
    assert all(0 < week["average_precision"] <= 1 for week in weeks)
    assert weeks[0]["never_retrained.average_precision"] == weeks[0]["average_precision"]
    assert weeks[1]["never_retrained.average_precision"] != weeks[1]["average_precision"]
    for policy in ("own_thresholds", "at_capacity", "never_retrained"):
        assert {week[f"{policy}.fraud_money"] for week in weeks} == {
            week["own_thresholds.fraud_money"] for week in weeks
        }
    assert walked.answer["means"]["rows"] == pytest.approx(sum(rows) / 3)
    assert f"{AS_OF[0]}_to_{AS_OF[2]}_step_3" in lake.partitions("walk_forward")
    page = Path(walked.answer["report"])
    assert page.is_relative_to(walked.platform.home / "reports")
    assert page.read_text().count("data:image/png;base64,") == 2


def test_a_walk_that_is_done_trains_nothing_and_shows_its_report(
    walked: Walked, here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    before = walked.lake.manifests("walk_forward", walked.lake.partitions("walk_forward"))
    assert main([str(word) for word in WALK]) == 0
    told = capsys.readouterr()
    assert [line.rpartition(": ")[2] for line in told.err.splitlines() if " of 3: " in line] == [
        f"is there already as version {n}" for n in "123"
    ]
    assert "trained_model" not in told.err
    assert walked.lake.manifests("walk_forward", walked.lake.partitions("walk_forward")) == before
    tables = told.out.split("\n\n")
    assert [part.split(":")[0] for part in tables] == ["quality", "money", "policies, means", "report"]
    assert [line.split()[0] for line in tables[0].splitlines()[-4:]] == [*AS_OF, "mean"]


@pytest.mark.parametrize(
    ("words", "told"), [(WALK, "1 of 3: "), (("train", "--as-of", AS_OF[0]), "mlops: as of ")]
)
def test_a_command_that_trains_waits_for_another_one(
    walked: Walked, words: tuple[object, ...], told: str
) -> None:
    with ExitStack() as another:
        another.enter_context(one_at_a_time(walked.platform.home))
        with started(walked.platform, words) as process:
            assert process.stderr is not None
            assert (
                process.stderr.readline()
                == "another command trains in this home: this one goes on when it has ended\n"
            )
            assert not select.select([process.stderr], [], [], 0.3)[0]
            another.close()
            assert process.stderr.readline().startswith(told)
            process.kill()


def test_the_report_can_be_made_without_the_command_also_past_what_the_lake_has(
    walked: Walked, here: None, tmp_path: Path
) -> None:
    from dagster import materialize

    from mlops_assets.assets.model.walk_forward import walk_forward_asset
    from mlops_assets.resources.environments import load_settings
    from mlops_assets.resources.lake import lake_of
    from mlops_assets.resources.registry import registry_of
    from mlops_assets.use_cases import USE_CASES

    settings = load_settings()
    resources = {"lake": lake_of(settings, USE_CASES[settings.use_case]), "registry": registry_of(settings)}

    def make(first: str, last: str, step: int) -> Any:
        config = {"ops": {"walk_forward": {"config": {"first": first, "last": last, "step": step}}}}
        asset = walk_forward_asset(USE_CASES[settings.use_case], settings)
        return materialize([asset], run_config=config, resources=resources, raise_on_error=False)

    done = make(AS_OF[0], AS_OF[2], 6)
    assert done.success
    assert walked.lake.partitions("walk_forward") == [
        f"{AS_OF[0]}_to_{AS_OF[2]}_step_{step}" for step in (3, 6)
    ]
    first, last = walked.lake.read("walk_forward", [f"{AS_OF[0]}_to_{AS_OF[2]}_step_6"]).to_pylist()
    assert (first["version"], first["last_day"], last["version"]) == ("1", "2025-03-25", "3")
    assert (last["last_day"], last["days"]) == (LAST, 5), "the lake ends before the six days do"
    assert last["unknown"] > 0, "and its last two days are not mature"
    failed = make("2025-03-21", AS_OF[1], 1)
    assert not failed.success
    (step,) = [event for event in failed.all_events if event.is_step_failure]
    assert "trained_model: nothing materialized for 2025-03-21, 2025-03-22" in str(
        step.step_failure_data.error
    )


def test_two_versions_are_compared_on_the_same_payments_neither_on_what_it_saw(
    said: Callable[..., str], walked: Walked
) -> None:
    found = json.loads(said("compare", 1, 3, *COMPARED, "--json").splitlines()[-1])
    versions = found["versions"]
    assert [(number, side["fit"]) for number, side in versions.items()] == [
        ("1", "release"),
        ("3", "release"),
    ]
    assert found["difference"]["average_precision"] == pytest.approx(
        versions["1"]["average_precision"] - versions["3"]["average_precision"]
    )
    assert (
        found["difference"]["low"] <= found["difference"]["average_precision"] <= found["difference"]["high"]
    )
    assert found["rows"] > 0
    assert (
        versions["1"]["policies"]["at_capacity"]["reviews"]
        == versions["3"]["policies"]["at_capacity"]["reviews"]
        > 0
    )
    early = json.loads(
        said("compare", 3, 1, "--from", "2025-03-20", *COMPARED[2:], "--json").splitlines()[-1]
    )
    assert [(number, side["fit"]) for number, side in early["versions"].items()] == [
        ("3", "evaluation"),
        ("1", "release"),
    ]
    table = said("compare", 1, 3, *COMPARED)
    assert "measure" in table
    assert "average precision, 1 minus 3: " in table


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("compare", 1, 9, *COMPARED), "mlops: the model 'fraud' has no version 9"),
        (
            ("compare", 1, 3, "--from", "2025-03-12", "--to", "2025-03-28"),
            "mlops: version 1 was trained to 2025-03-12 even for its evaluation",
        ),
        (
            ("compare", 1, 3, "--from", "2025-03-29", "--to", "2025-04-02"),
            "feature_vectors: nothing materialized for 2025-03-31, 2025-04-01",
        ),
        (("compare", 1, 3, "--from", LAST, "--to", LAST), f"mlops: from {LAST} to {LAST}: none of"),
        (
            ("compare", 1, 3, "--from", "2025-04-20", "--to", "2025-04-21"),
            "nothing materialized for 2025-04-20",
        ),
    ],
)
def test_what_cannot_be_compared_is_one_line_that_names_it(
    said: Callable[..., str], words: tuple[object, ...], named: str
) -> None:
    (line,) = said(*words).splitlines()
    assert named in line


def test_a_day_that_cannot_be_trained_ends_the_walk_with_its_name(
    said: Callable[..., str], walked: Walked
) -> None:
    *_, line = said(
        "backfill", "--group", "model", "--from", "2025-03-09", "--to", AS_OF[2], "--step", 17
    ).splitlines()
    assert line.startswith("mlops: as of 2025-03-09: ")


def test_a_training_after_a_walk_decides_on_the_version_that_is_there(
    said: Callable[..., str], walked: Walked
) -> None:
    told = json.loads(said("train", "--as-of", AS_OF[2], "--json").splitlines()[-1])
    assert (told["version"], told["champion_before"]) == ("3", "1")
    history = [json.loads(line) for line in (walked.platform.home / "history.jsonl").read_text().splitlines()]
    assert (history[-1]["version"], history[-1]["kind"]) == ("3", told["verdict"])
