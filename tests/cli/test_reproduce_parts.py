"""The parts of a rebuild: which code and environment, what is taken from the lake, what is made in which
order, and how a difference is told.
"""

import hashlib
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest
from record_kit import DAYS, record

from feature_repo.lake.datasets import Lake
from mlops_assets.cli.reproduction import recorded_code as code_module
from mlops_assets.cli.reproduction.differences import differing_code, differing_days, outcome
from mlops_assets.cli.reproduction.rebuild_version import RebuiltVersion, reproduce
from mlops_assets.cli.reproduction.recorded_code import CannotReproduce, checkout, interpreter
from mlops_assets.cli.reproduction.workshop import Step, plant, reason, steps
from mlops_assets.resources.provenance import code_digest, git, lock_digest

FAILED_RUN = """\
2026-01-01 00:00:00 +0000 - dagster - ERROR - __ASSET_JOB - STEP_FAILURE - Execution of step \
"training_set" failed.

dagster._core.errors.DagsterExecutionStepExecutionError: Error occurred while executing op "training_set":

The above exception was caused by the following exception:
feature_repo.lake.datasets.MissingPartitions: feature_vectors: nothing materialized for 2025-03-23

Stack Trace:
Error: Materialization failed.
"""
FAILED_CHECK = """\
dagster._core.errors.DagsterAssetCheckFailedError: 1 blocking asset check failed with ERROR severity: \
transactions: schema
Error: Materialization failed.
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository that looks like the project, with one commit."""
    root = tmp_path / "repository"
    for package in ("feature_repo", "mlops_assets", "serving"):
        (root / package).mkdir(parents=True)
        (root / package / "__init__.py").write_text("")
    (root / "requirements.lock").write_text("lightgbm==4.7.0\n")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    subprocess.run(["git", "-C", str(root), "add", "."], check=True)
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run(["git", "-C", str(root), *identity, "commit", "-q", "-m", "first"], check=True)
    return root


def made_from(root: Path, **code: str) -> dict[str, str]:
    return {
        **record().code,
        "git_commit": git(root, "rev-parse", "HEAD") or "none",
        "code_digest": code_digest(root),
        **code,
    }


def silence(line: str) -> None:
    pass


# The code


def test_the_code_is_a_worktree_of_the_commit_for_as_long_as_it_is_needed(
    repository: Path, tmp_path: Path
) -> None:
    recorded = record(code=made_from(repository))
    (repository / "serving" / "later.py").write_text("")
    before = git(repository, "worktree", "list")
    with checkout(recorded, repository, tmp_path / "code", silence) as code:
        assert code_digest(code) == recorded.code["code_digest"] != code_digest(repository)
        assert git(code, "rev-parse", "HEAD") == recorded.code["git_commit"]
        (code / "left behind").write_text("by whoever worked here")
    assert not (tmp_path / "code").exists()
    assert git(repository, "worktree", "list") == before
    with suppress(KeyError), checkout(recorded, repository, tmp_path / "code", silence):
        raise KeyError("what the work there ended with")
    assert not (tmp_path / "code").exists()
    assert git(repository, "worktree", "list") == before


def test_a_dirty_tree_is_rebuilt_from_the_same_tree_or_from_its_commit_which_is_told(
    repository: Path, tmp_path: Path
) -> None:
    (repository / "serving" / "uncommitted.py").write_text("")
    recorded = record(code=made_from(repository, git_dirty="true"))
    with checkout(recorded, repository, tmp_path / "code", silence) as code:
        assert code == repository
    (repository / "serving" / "uncommitted.py").unlink()
    said: list[str] = []
    with checkout(recorded, repository, tmp_path / "code", said.append) as code:
        assert code == tmp_path / "code"
        named = (
            f"commit {recorded.code['git_commit'][:12]} has a dirty tree: what was changed is not recorded"
        )
        assert named in differing_code(recorded, code, None)
    assert "dirty" in said[0]


def test_code_without_a_commit_is_rebuilt_from_the_same_code_only(repository: Path, tmp_path: Path) -> None:
    recorded = record(code=made_from(repository, git_commit="none", git_dirty="unknown"))
    with checkout(recorded, repository, tmp_path / "code", silence) as code:
        assert code == repository
    (repository / "serving" / "later.py").write_text("")
    with (
        pytest.raises(
            CannotReproduce, match=r"outside a git checkout, and the code in .*repository is other code"
        ),
        checkout(recorded, repository, tmp_path / "code", silence),
    ):
        pass


def test_a_commit_that_is_not_there_and_a_folder_without_git_are_named(
    repository: Path, tmp_path: Path
) -> None:
    with pytest.raises(CannotReproduce, match=rf"no commit {'a' * 40}.*fetch it"):
        reproduce(record(), Lake(tmp_path / "lake"), tmp_path, repository, silence)
    (tmp_path / "bare").mkdir()
    with pytest.raises(CannotReproduce, match=rf"bare is no git checkout .*commit {'a' * 40}"):
        reproduce(record(), Lake(tmp_path / "lake"), tmp_path, tmp_path / "bare", silence)


# The environment


def test_the_environment_is_this_one_where_the_lock_file_is_the_same(
    repository: Path, tmp_path: Path
) -> None:
    assert interpreter(repository, repository, tmp_path / "venv", silence) == Path(sys.executable)


def test_another_lock_file_is_installed_into_an_environment_of_its_own(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[str] = []
    monkeypatch.setattr(
        code_module, "_run", lambda command, failed: commands.append(" ".join(map(str, command)))
    )
    said: list[str] = []
    python = interpreter(repository, tmp_path, tmp_path / "venv", said.append)
    assert python == tmp_path / "venv" / "bin" / "python"
    lock = repository / "requirements.lock"
    assert commands == [
        f"{sys.executable} -m venv {tmp_path / 'venv'}",
        f"{python} -m pip install --quiet -c {lock} -e {repository}",
    ]
    assert "package registry" in said[0]


# What is taken from the lake, and what is made


def test_files_with_the_recorded_digests_are_taken_even_if_their_partition_holds_others_by_now(
    tmp_path: Path,
) -> None:
    lake, to = Lake(tmp_path / "lake"), Lake(tmp_path / "own")
    recorded: dict[str, dict[str, list[str]]] = {
        "prediction_log": {},
        "raw_transactions": {},
        "raw_labels": {},
    }
    for dataset, days in recorded.items():
        for day in DAYS:
            manifest = lake.write(dataset, day, pa.table({"value": [dataset, day]}))
            days[day] = [file.sha256 for file in manifest.files]
    lake.write("raw_labels", DAYS[1], pa.table({"value": ["another label"]}))
    (damaged,) = lake.files("raw_transactions", [DAYS[2]])
    Path(damaged).write_bytes(b"not what it was")

    planted = plant(
        record(
            partitions={**recorded, "raw_labels": {**recorded["raw_labels"], "2025-03-09": ["never seen"]}}
        ),
        lake,
        to,
    )
    assert planted == {
        "prediction_log": set(DAYS),
        "raw_transactions": set(DAYS[:2]),
        "raw_labels": set(DAYS),
    }
    for dataset, days in planted.items():
        for manifest in to.manifests(dataset, sorted(days)):
            assert [file.sha256 for file in manifest.files] == recorded[dataset][manifest.partition]
            assert manifest.validated == (dataset == "prediction_log")
    assert to.read("raw_labels", [DAYS[1]]).column("value").to_pylist() == ["raw_labels", DAYS[1]]


def test_days_on_end_are_made_in_one_run_and_a_day_that_failed_its_checks_in_one_of_its_own() -> None:
    days = [f"2025-03-{day:02}" for day in range(1, 8)]
    every = {day: ["x"] for day in days}
    recorded = record(
        partitions={
            "prediction_log": {days[6]: ["x"]},
            "raw_transactions": every,
            "transactions": every,
            "feature_vectors": {day: ["x"] for day in days[1:] if day != days[3]},
        },
        unvalidated={"transactions": [days[3]]},
    )
    all_three = ("raw_transactions", "transactions", "feature_vectors")
    assert steps(recorded, {"raw_transactions": {days[6]}}) == [
        Step(all_three[:2], days[0], days[0]),
        Step(all_three, days[1], days[2]),
        Step(all_three[:2], days[3], days[3], sound=False),
        Step(all_three, days[4], days[5]),
        Step(all_three[1:], days[6], days[6]),
    ]


def test_a_gap_between_days_ends_a_run() -> None:
    recorded = record(partitions={"raw_labels": {day: ["x"] for day in (DAYS[0], DAYS[2])}})
    assert steps(recorded, {}) == [
        Step(("raw_labels",), DAYS[0], DAYS[0]),
        Step(("raw_labels",), DAYS[2], DAYS[2]),
    ]


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (FAILED_RUN, "feature_vectors: nothing materialized for 2025-03-23"),
        (FAILED_CHECK, "1 blocking asset check failed with ERROR severity: transactions: schema"),
        ("killed", "Dagster does not say why"),
    ],
)
def test_a_run_that_fails_is_told_by_its_cause(output: str, said: str) -> None:
    assert reason(output) == said


# What differs


def test_days_that_differ_are_named_from_cause_to_effect() -> None:
    many = {f"2025-03-{day:02}": ["x"] for day in range(1, 20)}
    recorded = record(
        partitions={"raw_labels": many, "labels": many, "verdicts": many, "feature_vectors": many},
        unvalidated={"labels": [DAYS[0]]},
    )
    days = {
        "raw_labels": {**many, DAYS[1]: ["y"]},
        "labels": many,
        "verdicts": {day: ["y" if day > "2025-03-02" else "x"] for day in many},
        "feature_vectors": {day: digests for day, digests in many.items() if day != DAYS[2]},
    }
    assert differing_days(recorded, days, {"labels": [DAYS[1]]}) == [
        f"raw_labels {DAYS[1]}",
        f"labels {DAYS[0]}, {DAYS[1]}",
        "verdicts 2025-03-03 to 2025-03-19 (17 days)",
        f"feature_vectors {DAYS[2]} (not there)",
    ]
    assert differing_days(recorded, recorded.partitions, recorded.unvalidated) == []


def test_code_versions_and_configuration_that_differ_are_named(repository: Path) -> None:
    code = made_from(repository, lock_digest=lock_digest(repository))
    recorded = record(code=code)
    assert differing_code(recorded, repository, recorded) == []
    later = record(code=code, runtime={"python": "3.12.1", "lightgbm": "4.6.0"}, plan_digest="q")
    assert differing_code(recorded, repository, later) == [
        "python 3.11.7 against 3.12.1",
        "package lightgbm 4.7.0 against 4.6.0",
        "declarations of features",
    ]
    forged = record(
        code={**code, "lock_digest": "x", "config_digest": hashlib.sha256(b"another").hexdigest()}
    )
    assert differing_code(forged, repository, None) == ["lock file", "configuration"]
    of_case = record(code={**code, "use_case_commit": "a" * 40})
    assert differing_code(of_case, repository, recorded) == [f"use case of commit {'a' * 12} against none"]


@pytest.mark.parametrize(
    ("rebuilt", "identical"),
    [
        (outcome({}, "t", {"evaluation": "e", "release": "r"}), True),
        (outcome({"feature_vectors": {DAYS[0]: ["x"]}}, "t", {"evaluation": "e", "release": "r"}), True),
        (outcome({}, "t", {"evaluation": "e", "release": "s"}), False),
        (outcome({}, "u", {"evaluation": "e", "release": "r"}), False),
        (outcome({}, "t", {}), False),
    ],
)
def test_identical_is_the_training_set_and_both_models(
    rebuilt: dict[str, str | None], identical: bool
) -> None:
    assert (
        RebuiltVersion(outcome({}, "t", {"evaluation": "e", "release": "r"}), rebuilt, (), 0, 0).identical
        is identical
    )
