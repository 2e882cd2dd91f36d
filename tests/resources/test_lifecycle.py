"""Promotion, refusal, approval and rollback on a real registry: nothing goes around the gate, and no crash or
race leaves half of a decision.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from lifecycle_kit import AT, GOOD, Shelf

from feature_repo.lake.datasets import Lake
from mlops_assets.core.keys import PREDICTION_LOG
from mlops_assets.resources.decision_history import History, HistoryError
from mlops_assets.resources.promotion import NotPromotable, Overtaken
from mlops_assets.resources.registry import EVALUATION_TAG
from mlops_assets.resources.registry_records import HEAD_TAG, RegistryError
from mlops_assets.steps.monitoring.drift_of_day import served_of_day
from mlops_assets.use_cases.fraud.case import FRAUD
from serving.contract.bundle import BundleError

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """Version 1 serves, and 2 is a candidate that the gate has passed."""
    shelf = Shelf(tmp_path_factory.mktemp("stocked") / "home")
    assert shelf.promoted() == "1"
    assert shelf.candidate() == "2"
    return shelf


@pytest.fixture
def shelf(stocked: Shelf, tmp_path: Path) -> Shelf:
    return stocked.copied(tmp_path / "home")


def approve(shelf: Shelf, number: str, barred: tuple[str, ...] = ()) -> dict[str, Any]:
    return shelf.lifecycle.approve(number, AT, "anna", "I looked", barred)


# The gate


def test_a_promotion_is_one_line_that_says_what_when_by_whom_and_why(shelf: Shelf) -> None:
    row = shelf.gate("2")
    told = {
        name: row[name] for name in ("at", "kind", "as_of", "version", "champion", "reasons", "by", "run")
    }
    assert told == {
        "at": "2025-04-10T12:00:00+00:00",
        "kind": "promoted",
        "as_of": "2025-04-10",
        "version": "2",
        "champion": "1",
        "reasons": ["better in every way"],
        "by": "gate",
        "run": "run",
    }
    assert (shelf.champion, shelf.previous) == ("2", "1")
    assert shelf.decisions() == [("promoted", "1"), ("promoted", "2")]
    assert shelf.lifecycle.unconfirmed() == []


def test_the_same_decision_again_is_the_same_line_and_moves_nothing(shelf: Shelf) -> None:
    row, refused = shelf.gate("2"), shelf.candidate(promote=False, reasons=("not better",))
    assert shelf.gate("2") == row
    first = shelf.gate(refused)
    assert (first["kind"], first["reasons"]) == ("refused", ["not better"])
    assert shelf.gate(refused) == first
    newer = shelf.promoted(as_of="2025-04-11")
    assert shelf.gate("2") == row, "its partition is materialized once more"
    assert shelf.champion == newer
    assert len(shelf.decisions()) == 4


def test_a_verdict_that_changed_is_another_decision(shelf: Shelf) -> None:
    number = shelf.candidate(promote=False, reasons=("parity is not clean",))
    shelf.gate(number)
    shelf.judge(shelf.registry.version(number), promote=True, against="1")
    assert shelf.gate(number)["kind"] == "promoted"
    assert shelf.decisions()[1:] == [("refused", number), ("promoted", number)]


def test_a_backtest_never_replaces_a_newer_champion_whoever_asks(shelf: Shelf) -> None:
    older = shelf.candidate(as_of="2025-04-01")
    row = shelf.gate(older)
    assert (row["kind"], row["reasons"]) == (
        "refused",
        ["the champion is of 2025-04-10, newer than 2025-04-01: a walk-forward replaces nothing"],
    )
    with pytest.raises(
        NotPromotable, match="whoever asks: the champion is of 2025-04-10, newer than 2025-04-01"
    ):
        approve(shelf, older)
    assert shelf.champion == "1"


def test_a_promotion_that_was_overtaken_moves_nothing(shelf: Shelf) -> None:
    other = shelf.candidate()
    shelf.gate(other)
    with pytest.raises(RegistryError, match="the champion is 3, no longer 1 that 2 was measured against"):
        shelf.gate("2")
    assert shelf.champion == other
    assert len(shelf.decisions()) == 2


# Around the gate


def without_a_verdict(shelf: Shelf) -> str:
    return shelf.register().version


def with_the_verdict_of_another_version(shelf: Shelf) -> str:
    version = shelf.register()
    shelf.registry.client().set_model_version_tag(
        "fraud", version.version, EVALUATION_TAG, shelf.tags("2")[EVALUATION_TAG]
    )
    return version.version


def with_a_verdict_on_another_bundle(shelf: Shelf) -> str:
    version = shelf.register()
    shelf.judge(version, against="1")
    verdict = {**json.loads(shelf.tags(version.version)[EVALUATION_TAG]), "bundle_digest": "a" * 64}
    shelf.registry.client().set_model_version_tag(
        "fraud", version.version, EVALUATION_TAG, json.dumps(verdict)
    )
    return version.version


def with_a_verdict_from_before_it_named_its_bundle(shelf: Shelf) -> str:
    version = shelf.register()
    verdict = {"promote": True, "reasons": GOOD, "champion": "1"}
    shelf.registry.client().set_model_version_tag(
        "fraud", version.version, EVALUATION_TAG, json.dumps(verdict)
    )
    return version.version


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (without_a_verdict, "version 3 has no verdict of the gate"),
        (
            with_the_verdict_of_another_version,
            "the verdict on version 3 is not its own, but of version 2 and bundle_digest",
        ),
        (
            with_a_verdict_on_another_bundle,
            f"the verdict on version 3 is not its own, but of bundle_digest {'a' * 64}",
        ),
        (
            with_a_verdict_from_before_it_named_its_bundle,
            "is not its own, but of version None and bundle_digest None: materialize its evaluation",
        ),
    ],
)
def test_no_version_serves_without_a_verdict_on_exactly_its_bundle(
    shelf: Shelf, make: Callable[[Shelf], str], named: str
) -> None:
    number = make(shelf)
    for ask in (shelf.gate, lambda number: approve(shelf, number)):
        with pytest.raises(NotPromotable, match=named):
            ask(number)
    assert (shelf.champion, shelf.decisions()) == ("1", [("promoted", "1")])


def test_no_version_serves_whose_bundle_is_not_the_one_that_was_judged(shelf: Shelf) -> None:
    number = shelf.candidate()
    bundle = shelf.registry._artifacts(shelf.registry.version(number), "bundle")
    (bundle / "model.txt").write_text("tree\nfeature_names=amount\nanother\n")
    for ask in (shelf.gate, lambda number: approve(shelf, number)):
        with pytest.raises(BundleError, match=r"model\.txt was altered"):
            ask(number)
    whole = shelf.registry._artifacts(shelf.registry.version("2"), "bundle")
    shutil.copytree(whole, bundle, dirs_exist_ok=True)
    with pytest.raises(RegistryError, match="version 3: its bundle has the digest"):
        shelf.gate(number)
    assert shelf.champion == "1"


def test_a_champion_that_was_set_by_hand_stops_promotions_and_a_rollback_returns_to_the_one_on_record(
    shelf: Shelf,
) -> None:
    stranger = shelf.register().version
    shelf.registry.client().set_registered_model_alias("fraud", "champion", stranger)
    for ask in (shelf.gate, lambda number: approve(shelf, number)):
        with pytest.raises(
            RegistryError,
            match=(
                f"the champion is {stranger}, which no line of .*history.jsonl made champion: the last one"
                " is 1"
            ),
        ):
            ask("2")
    row = shelf.back("set by hand")
    assert (row["version"], row["to"], shelf.champion) == (stranger, "1", "1")
    assert shelf.gate("2")["kind"] == "promoted"


def test_nothing_else_in_the_platform_moves_the_alias() -> None:
    sources = [
        path
        for package in ("mlops_assets", "serving", "feature_repo")
        for path in (ROOT / package).rglob("*.py")
    ]
    movers = [path.name for path in sources if "registered_model_alias(" in path.read_text()]
    assert movers == ["decision_steps.py"]


def test_a_history_that_is_not_whole_stops_every_decision(shelf: Shelf) -> None:
    shelf.gate("2")
    path = Path(shelf.lifecycle.history.path)
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    for ask in (lambda: shelf.gate("2"), shelf.back, lambda: approve(shelf, "2")):
        with pytest.raises(HistoryError, match="line 2 is missing: it has 1 lines, and MLflow knows of 2"):
            ask()
    assert shelf.champion == "2"


# A person


def test_a_person_may_overrule_a_judgement_and_it_is_on_record_what_was_overruled(shelf: Shelf) -> None:
    number = shelf.candidate(promote=False, reasons=("not proven to be better", "it saves less"))
    shelf.gate(number)
    row = approve(shelf, number)
    assert (row["kind"], row["by"], row["reasons"]) == ("promoted", "anna", ["I looked"])
    assert row["overruled"] == ["not proven to be better", "it saves less"]
    assert (shelf.champion, shelf.previous) == (number, "1")
    with pytest.raises(NotPromotable, match="is the champion already"):
        approve(shelf, number)
    assert shelf.gate(number) == row, "so that promoted_version can be materialized for the lineage"
    assert shelf.champion == number


def test_a_person_may_not_overrule_what_would_break_serving_or_trust(shelf: Shelf) -> None:
    number = shelf.candidate(
        promote=False, reasons=("a metric is undefined", "it saves less"), barred=("a metric is undefined",)
    )
    with pytest.raises(
        NotPromotable, match=r"version 3 cannot be promoted, whoever asks: a metric is undefined$"
    ):
        approve(shelf, number)
    with pytest.raises(NotPromotable, match="whoever asks: parity is not clean any more"):
        approve(shelf, "2", barred=("parity is not clean any more",))
    assert (shelf.champion, shelf.decisions()) == ("1", [("promoted", "1")])


def test_a_version_that_was_measured_against_another_champion_may_be_approved_and_the_line_says_so(
    shelf: Shelf,
) -> None:
    other = shelf.promoted()
    assert approve(shelf, "2")["overruled"] == [f"it was measured against 1, not against {other}"]


def test_where_a_person_has_to_approve_the_gates_promotion_waits(shelf: Shelf) -> None:
    row = shelf.gate("2", approval="person")
    assert (row["kind"], row["reasons"], shelf.champion) == ("awaiting", ["better in every way"], "1")
    assert shelf.gate("2", approval="person") == row
    assert shelf.tags("2")["awaiting"] == "awaiting by gate at 2025-04-10T12:00:00+00:00: better in every way"
    made = approve(shelf, "2")
    assert (shelf.champion, "awaiting" in shelf.tags("2")) == ("2", False)
    assert made["overruled"] == []
    assert shelf.gate("2", approval="person") == made, (
        "materialized again, the asset finds the person's decision"
    )
    assert [kind for kind, _ in shelf.decisions()] == ["promoted", "awaiting", "promoted"]


def test_what_a_person_has_declined_no_machine_promotes(shelf: Shelf) -> None:
    shelf.gate("2", approval="person")
    row = shelf.lifecycle.decline("2", AT, "anna", "the labels of March are in doubt")
    assert (row["kind"], row["by"], shelf.champion) == ("declined", "anna", "1")
    assert "awaiting" not in shelf.tags("2")
    refused = shelf.gate("2")
    assert refused["reasons"] == [
        "version 2 was declined by anna at 2025-04-10T12:00:00+00:00: the labels of March are in doubt: only"
        " a person promotes it again"
    ]
    with pytest.raises(RegistryError, match="version 1 is the champion: roll it back"):
        shelf.lifecycle.decline("1", AT, "anna", "no")


# Back


def test_a_rollback_returns_to_the_champion_before_and_latches_the_one_that_served(shelf: Shelf) -> None:
    shelf.gate("2")
    row = shelf.back()
    assert (row["kind"], row["version"], row["to"], row["by"], row["reasons"]) == (
        "rolled_back",
        "2",
        "1",
        "anna",
        ["too many alarms"],
    )
    assert (shelf.champion, shelf.previous) == ("1", None)
    assert (
        shelf.tags("2")["rolled_back"] == "rolled back by anna at 2025-04-10T12:00:00+00:00: too many alarms"
    )
    for _ in range(2):
        refused = shelf.gate("2")
        assert refused["kind"] == "refused"
        assert "rolled back by anna" in refused["reasons"][0]
    assert shelf.champion == "1"
    shelf.judge(shelf.registry.version("2"), promote=True, against="1")
    assert shelf.gate("2")["kind"] == "refused", "a verdict that was made anew takes no latch off"
    assert approve(shelf, "2")["overruled"] == [refused["reasons"][0]]
    assert (shelf.champion, "rolled_back" in shelf.tags("2")) == ("2", False)
    assert len(shelf.decisions()) == 5


def test_the_same_training_under_another_number_is_latched_as_well(shelf: Shelf) -> None:
    shelf.gate("2")
    shelf.back()
    again = shelf.register(seed=2, git_commit="another")
    shelf.judge(again, against="1")
    assert "the same, as version 2, was rolled back by anna" in shelf.gate(again.version)["reasons"][0]
    assert shelf.gate(shelf.candidate())["kind"] == "promoted", "what is new is not held up"


def test_rollbacks_walk_back_through_the_champions_to_the_first(shelf: Shelf) -> None:
    shelf.gate("2")
    third = shelf.promoted()
    assert (shelf.back()["to"], shelf.previous) == ("2", "1")
    assert (shelf.back()["to"], shelf.previous) == ("1", None)
    with pytest.raises(
        RegistryError, match="there is nothing to go back to: no champion before version 1 is left"
    ):
        shelf.back()
    assert shelf.champion == "1"
    assert shelf.decisions()[-2:] == [("rolled_back", third), ("rolled_back", "2")]


def test_without_a_champion_there_is_nothing_to_roll_back(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="there is no champion to roll back"):
        Shelf(tmp_path / "home").back()


def test_a_rollback_of_one_version_leaves_another_that_serves_by_now(shelf: Shelf) -> None:
    shelf.gate("2")
    newer = shelf.promoted()
    with pytest.raises(Overtaken, match=f"the champion is {newer}, no longer 2"):
        shelf.lifecycle.roll_back(AT, "guard", "it fails", version="2")
    assert (shelf.champion, len(shelf.decisions())) == (newer, 3)
    assert shelf.lifecycle.roll_back(AT, "guard", "it fails", version=newer)["to"] == "2"


def test_a_rollback_does_not_go_to_a_bundle_that_cannot_serve(shelf: Shelf) -> None:
    number = shelf.promoted()
    shelf.promoted()
    (shelf.registry._artifacts(shelf.registry.version(number), "bundle") / "model.txt").write_text("")
    with pytest.raises(BundleError, match=r"model\.txt was altered"):
        shelf.back()
    assert shelf.champion == "4"


def test_an_evaluation_that_is_made_anew_does_not_refuse_the_champion(shelf: Shelf) -> None:
    number = shelf.candidate()
    made = shelf.gate(number)
    shelf.judge(shelf.registry.version(number), promote=False, against=number, reasons=("it saves less",))
    assert shelf.gate(number) == made
    assert shelf.champion == number


def test_a_champion_whose_bundle_was_damaged_is_rolled_back(shelf: Shelf) -> None:
    number = shelf.promoted()
    (shelf.registry._artifacts(shelf.registry.version(number), "bundle") / "model.txt").write_text("")
    assert shelf.back()["to"] == "1"
    assert shelf.champion == "1"


def test_a_database_that_was_made_anew_is_not_taken_for_the_one_that_was_decided_on(
    shelf: Shelf, tmp_path: Path
) -> None:
    """Its numbers begin at 1 again: what has the number 1 now was never judged, and must not become champion
    because another one was.
    """
    anew = Shelf(tmp_path / "anew")
    number = anew.candidate(promote=False, seed=100)
    shutil.copy(shelf.lifecycle.history.path, anew.lifecycle.history.path)
    with pytest.raises(
        RegistryError, match=r"history\.jsonl: line 1 is on version 1, which is another version in MLflow"
    ):
        anew.gate(number)
    assert anew.champion is None
    assert anew.lifecycle.history.entries() == shelf.lifecycle.history.entries()


def test_a_history_that_is_newer_than_the_database_is_carried_out_line_by_line(shelf: Shelf) -> None:
    """As after a restore: two decisions came between the copies of the database and of the history."""
    before = shelf.copied(shelf.home.parent / "before")
    shelf.gate("2")
    shelf.back()
    shutil.copy(shelf.lifecycle.history.path, before.lifecycle.history.path)
    number = before.candidate(promote=False, reasons=("another one",))
    before.gate(number)
    assert (before.champion, before.previous) == ("1", None)
    assert "rolled_back" in before.tags("2")
    assert before.decisions() == [
        ("promoted", "1"),
        ("promoted", "2"),
        ("rolled_back", "2"),
        ("refused", number),
    ]


def test_a_history_from_before_it_was_chained_goes_on(shelf: Shelf) -> None:
    path = Path(shelf.lifecycle.history.path)
    old = [
        {
            "as_of": "2025-04-10",
            "version": "1",
            "champion": None,
            "verdict": "promoted",
            "reasons": ["better in every way"],
            "run": "r",
        }
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in old))
    shelf.registry.client().delete_registered_model_tag("fraud", HEAD_TAG)
    assert shelf.lifecycle.unconfirmed() == []
    assert shelf.gate("1") == old[0]
    shelf.gate("2")
    assert shelf.back()["to"] == "1"
    assert shelf.lifecycle.unconfirmed() == []


def test_drift_is_measured_against_the_reference_of_the_version_that_served_before_and_after_a_rollback(
    shelf: Shelf, tmp_path: Path
) -> None:
    lake = Lake(tmp_path / "lake")
    shelf.gate("2")
    for day in ("2025-04-11", "2025-04-12"):
        log = {"features": ['{"amount": 5.0}'], "fraud_score": [0.5], "model_version": [shelf.champion]}
        lake.write(PREDICTION_LOG, day, pa.table(log), validated=True)
        if shelf.champion == "2":
            shelf.back()
    versions = [served_of_day(FRAUD, lake, day, ["amount"])[1] for day in ("2025-04-11", "2025-04-12")]
    assert [
        shelf.registry.reference(shelf.registry.version(str(one))).column("amount").to_pylist()
        for one in versions
    ] == [[2], [1]]


# Crashes and races. MLflow is imported once; every attempt is a fork of this process on a copy of the
# registry that it alone has open.


def in_a_fork(work: Callable[[], object]) -> int:
    """The exit status of a process that does the work: 0, 1 where it raised, or a signal, negative."""
    if (child := os.fork()) == 0:
        try:
            work()
            os._exit(0)
        except Exception:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def dying_at(step: int) -> None:
    """Let this process be killed before its step number `step` that writes, or after its append to the
    history.
    """
    from mlflow import MlflowClient

    left = [step]

    def counted(kind: type, name: str) -> None:
        original = getattr(kind, name)

        def stepping(*args: Any, **more: Any) -> Any:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return original(*args, **more)

        setattr(kind, name, stepping)

    counted(History, "append")
    for verb in ("set", "delete"):
        for thing in ("model_version_tag", "registered_model_alias", "registered_model_tag"):
            counted(MlflowClient, f"{verb}_{thing}")


@pytest.fixture(scope="module")
def served_by_two(stocked: Shelf, tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    shelf = stocked.copied(tmp_path_factory.mktemp("two") / "home")
    shelf.gate("2")
    return shelf


DECISIONS: dict[str, tuple[Callable[[Shelf], object], str, str | None]] = {
    "promotion": (lambda shelf: shelf.gate("3"), "3", "2"),
    "approval": (lambda shelf: approve(shelf, "3"), "3", "2"),
    "rollback": (lambda shelf: shelf.back(), "1", None),
}


@pytest.mark.parametrize("decision", DECISIONS)
def test_a_kill_between_any_two_steps_leaves_what_the_next_decision_completes(
    served_by_two: Shelf, tmp_path: Path, decision: str
) -> None:
    decide, champion, previous = DECISIONS[decision]
    start = served_by_two.copied(tmp_path / "start")
    start.candidate()
    killed = 0
    for step in range(20):
        home = tmp_path / str(step)
        shutil.copytree(start.home, home)

        def attempt(home: Path = home, step: int = step) -> None:
            dying_at(step)
            decide(Shelf(home))

        status = in_a_fork(attempt)
        shelf = Shelf(home)
        before = [("promoted", "1"), ("promoted", "2")]
        decided = shelf.decisions()[2:]
        assert len(decided) == (step > 0), "from the line on it is decided"
        assert shelf.champion in ("2", champion)
        assert len(shelf.lifecycle.unconfirmed()) == (0 if status == 0 else len(decided))
        refused = shelf.candidate(promote=False, reasons=("another one",))
        shelf.gate(refused)  # any decision after it
        assert shelf.decisions() == [*before, *decided, ("refused", refused)]
        assert (shelf.champion, shelf.previous) == ((champion, previous) if decided else ("2", "1"))
        assert ("rolled_back" in shelf.tags("2")) == (decision == "rollback" and bool(decided))
        assert shelf.lifecycle.unconfirmed() == []
        if status == 0:
            break
        assert status == -signal.SIGKILL
        killed += 1
    assert killed >= 6
    assert status == 0


def test_a_promotion_and_a_rollback_at_once_end_in_one_of_the_two_orders(
    served_by_two: Shelf, tmp_path: Path
) -> None:
    """1 and 2 have served; 3 was measured against 2.

    First promoted: 3, then back to 2. First rolled back: 1, and 3 is no longer promoted unseen.
    """
    start = served_by_two.copied(tmp_path / "start")
    start.candidate()
    seen = set()
    for attempt in range(16):
        home = tmp_path / str(attempt)
        shutil.copytree(start.home, home)
        go = time.monotonic() + 0.25
        children = []
        for number, decide in enumerate((lambda shelf: shelf.gate("3"), lambda shelf: shelf.back())):
            if (child := os.fork()) == 0:
                try:
                    shelf = Shelf(home)
                    shelf.registry.champion()  # the connection is there
                    head_start = 0.003 * 4 ** (
                        attempt // 2 % 4
                    )  # from at once to one after the other, each of them first in turn
                    time.sleep(max(0.0, go - time.monotonic() + (head_start if number == attempt % 2 else 0)))
                    decide(shelf)
                    os._exit(0)
                except Exception:
                    os._exit(1)
            children.append(child)
        promoted, rolled_back = (os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
        shelf = Shelf(home)
        end = (shelf.decisions()[2:], shelf.champion, shelf.previous, promoted, rolled_back)
        assert end in (
            ([("promoted", "3"), ("rolled_back", "3")], "2", "1", 0, 0),
            ([("rolled_back", "2")], "1", None, 1, 0),
        )
        assert shelf.lifecycle.unconfirmed() == []
        seen.add(end[1])
        shutil.rmtree(home)
    assert seen == {"1", "2"}, "both orders came about"
