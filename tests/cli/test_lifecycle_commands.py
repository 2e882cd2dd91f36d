"""`mlops promote`, `rollback` and `history`: what they say, what they leave, and what they refuse."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from dagster import AssetKey, AssetRecordsFilter, DagsterInstance
from lifecycle_kit import Shelf

from mlops_assets.cli import decision_report
from mlops_assets.cli.command_line import main
from mlops_assets.cli.instance import prepare_instance

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """1 serves, the gate refused 2 as a matter of judgement, and 3 for what nobody may overrule."""
    shelf = Shelf(tmp_path_factory.mktemp("stocked") / "home")
    shelf.promoted()
    shelf.gate(shelf.candidate(promote=False, reasons=("not proven to be better", "it saves less")))
    shelf.gate(
        shelf.candidate(promote=False, reasons=("a metric is undefined",), barred=("a metric is undefined",))
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(shelf.home / "dagster"))
        prepare_instance(shelf.home)
    return shelf


@pytest.fixture
def shelf(stocked: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    mine = stocked.copied(tmp_path / "home")
    monkeypatch.setenv("MLOPS_HOME", str(mine.home))
    monkeypatch.setattr(decision_report, "person", lambda: "anna")
    return mine


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    return Said(capsys)


class Said:
    """A command in this process: its exit code, and what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def text(self, *words: str) -> list[str]:
        assert main(words) == 0, self.capsys.readouterr().err
        return self.capsys.readouterr().out.splitlines()

    def data(self, *words: str) -> dict[str, object]:
        return dict(json.loads(self.text(*words, "--json")[-1]))

    def error(self, *words: str) -> str:
        assert main(words) == 1
        told = self.capsys.readouterr()
        assert told.out == ""
        (line,) = told.err.splitlines()
        return line


def test_a_person_promotes_rolls_back_and_reads_it_in_the_history(shelf: Shelf, said: Said) -> None:
    made = said.data("promote", "2", "--reason", "the new terminals")
    assert {name: made[name] for name in ("kind", "version", "champion", "by", "reasons", "overruled")} == {
        "kind": "promoted",
        "version": "2",
        "champion": "1",
        "by": "anna",
        "reasons": ["the new terminals"],
        "overruled": ["not proven to be better", "it saves less"],
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", str(made["at"]))
    back = said.text("rollback", "--reason", "too many alarms")
    assert {"kind: rolled_back", "version: 2", "to: 1", "by: anna"} <= set(back)
    assert shelf.champion == "1"
    titles, second_line, *table, last = said.text("history")
    assert titles.split() == ["at", "(UTC)", "decision", "version", "as", "of", "champion", "by", "reason"]
    assert second_line.split() == ["before"]
    assert [re.split(r"  +", line)[1:3] for line in table] == [
        ["promoted", "1"],
        ["refused", "2"],
        ["refused", "3"],
        ["promoted", "2"],
        ["rolled back to 1", "2"],
    ]
    assert table[-2].endswith("the new terminals (and 2 more)")
    assert last == "5 entries, whole: each follows from the one before it, and MLflow knows of the last one"
    told = said.data("history")
    assert (told["whole"], told["rows"], told["unchained"], told["unconfirmed"]) == (True, 5, 0, 0)
    assert told["entries"] == shelf.lifecycle.history.entries()
    status = said.data("status")
    assert dict(status["last_decision"])["kind"] == "rolled_back"  # type: ignore[call-overload]


def test_a_version_is_refused_by_a_person(shelf: Shelf, said: Said) -> None:
    assert said.data("promote", "2", "--refuse", "--reason", "the labels are in doubt")["kind"] == "declined"
    assert shelf.decisions()[-1] == ("declined", "2")
    assert shelf.champion == "1"


def test_what_a_person_decided_is_seen_in_dagster_at_the_as_of_day_of_the_version(
    shelf: Shelf, said: Said
) -> None:
    said.text("promote", "2", "--reason", "the new terminals")
    said.text("rollback", "--reason", "too many alarms")
    said.text("promote", "2", "--refuse", "--reason", "the labels are in doubt")
    promoted, back, declined = observations()
    assert promoted == {
        "day": "2025-04-10",
        "what": "version 2 was promoted by anna",
        "kind": "promoted",
        "version": "2",
        "champion before": "1",
        "by": "anna",
        "reasons": "- the new terminals",
        "overruled": "- not proven to be better\n- it saves less",
        "line of the history": 4,
    }
    assert back == {
        "day": "2025-04-10",
        "what": "version 2 was rolled back to 1 by anna",
        "kind": "rolled_back",
        "version": "2",
        "champion before": "2",
        "to": "1",
        "by": "anna",
        "reasons": "- too many alarms",
        "line of the history": 5,
    }
    assert declined == {
        "day": "2025-04-10",
        "what": "version 2 was declined by anna",
        "kind": "declined",
        "version": "2",
        "champion before": "1",
        "by": "anna",
        "reasons": "- the labels are in doubt",
        "line of the history": 6,
    }


def observations() -> list[dict[str, object]]:
    """What Dagster's instance on disk has of decisions, the oldest first."""
    with DagsterInstance.get() as instance:
        records = instance.fetch_observations(
            AssetRecordsFilter(AssetKey("promoted_version")), limit=10, ascending=True
        ).records
    found = [one for record in records if (one := record.asset_observation)]
    return [
        {
            "day": one.partition,
            "what": one.description,
            **{name: value.value for name, value in one.metadata.items()},
        }
        for one in found
    ]


def test_a_decision_stands_where_dagster_cannot_be_told_and_one_line_says_so(
    shelf: Shelf, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(folder := shelf.home / "broken"))
    folder.mkdir()
    (folder / "dagster.yaml").write_text("nowhere: true\n")
    assert main(["promote", "2", "--reason", "the new terminals", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out.splitlines()[-1])["kind"] == "promoted"
    (line,) = told.err.splitlines()
    assert line.startswith("mlops: this is decided and in the history, but Dagster's UI does not show it (")
    assert "nowhere" in line
    assert shelf.champion == "2"
    assert shelf.decisions()[-1] == ("promoted", "2")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (
            ["promote", "3", "--reason", "I must"],
            "mlops: version 3 cannot be promoted, whoever asks: a metric is undefined",
        ),
        (["promote", "9", "--reason", "I must"], "mlops: the model 'fraud' has no version 9"),
        (["promote", "1", "--reason", "again"], "mlops: version 1 is the champion already"),
        (["promote", "1", "--refuse", "--reason", "no"], "mlops: version 1 is the champion: roll it back"),
        (
            ["rollback", "--reason", "alarms"],
            "mlops: there is nothing to go back to: no champion before version 1 is left",
        ),
    ],
)
def test_what_cannot_be_is_one_line_and_changes_nothing(
    shelf: Shelf, said: Said, words: list[str], named: str
) -> None:
    before = Path(shelf.lifecycle.history.path).read_bytes()
    assert said.error(*words) == named
    assert Path(shelf.lifecycle.history.path).read_bytes() == before
    assert shelf.champion == "1"


def test_a_history_that_was_altered_is_named_with_its_line(shelf: Shelf, said: Said) -> None:
    path = Path(shelf.lifecycle.history.path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], lines[1].replace("refused", "promoted"), lines[2]]))
    for words in (["history"], ["history", "--json"], ["status"]):
        assert (
            said.error(*words) == f"mlops: {path}: line 2 was altered: its digest is not that of its content"
        )
    path.write_text("".join(lines[:2]))
    for words in (["history"], ["status"]):
        assert (
            said.error(*words) == f"mlops: {path}: line 3 is missing: it has 2 lines, and MLflow knows of 3"
        )


@pytest.mark.parametrize("content", [None, b""])
def test_a_database_that_is_gone_is_named_and_not_made_anew(
    shelf: Shelf, said: Said, content: bytes | None
) -> None:
    database = shelf.home / "mlflow" / "mlflow.db"
    database.unlink()
    if content is not None:
        database.write_bytes(content)
    reason, days = ("--reason", "I must"), ("--from", "2026-01-05", "--to", "2026-01-06")
    for words in (
        ["status"],
        ["history"],
        ["promote", "2", *reason],
        ["rollback", *reason],
        ["reproduce", "1"],
        ["compare", "1", "2", *days],
        ["train", "--as-of", "2026-01-20"],
        ["backfill", "--group", "model", *days],
    ):
        assert (
            f"{database} is {'missing' if content is None else 'empty'}, and {shelf.home / 'history.jsonl'}"
            " has decisions" in said.error(*words)
        )
    assert (database.read_bytes() if database.exists() else None) == content


def test_a_database_that_is_damaged_is_named_in_one_short_line(shelf: Shelf, said: Said) -> None:
    database = shelf.home / "mlflow" / "mlflow.db"
    database.write_bytes(b"not a database" * 100)
    for words in (["status"], ["history"], ["rollback", "--reason", "I must"]):
        assert said.error(*words) == f"mlops: sqlite:///{database} cannot be used (file is not a database)"


def test_a_record_that_is_missing_is_named(shelf: Shelf, said: Said) -> None:
    shelf.registry.client().set_model_version_tag("fraud", "1", "provenance_digest", "0" * 64)
    line = said.error("reproduce", "1")
    assert line.startswith(
        "mlops: version 1: its provenance.json cannot be read (No such file or directory: "
    )


def test_on_an_empty_home_there_is_nothing_to_decide_and_nothing_is_made(tmp_path: Path, said: Said) -> None:
    assert said.text("history") == [f"no entries: nothing was decided in {tmp_path / 'home'} yet"]
    assert said.data("history")["entries"] == []
    assert "there is no version 1" in said.error("promote", "1", "--reason", "I must")
    assert "there is no champion to roll back" in said.error("rollback", "--reason", "I must")
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["promote", "2"], "--reason"),
        (["promote", "--reason", "a"], "VERSION"),
        (["rollback"], "--reason"),
        (["rollback", "--reason", "  "], "'  ' says nothing"),
        (["rollback", "--reason", "a", "--reason", "b"], "given twice"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(
    words: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2
    assert named in capsys.readouterr().err
