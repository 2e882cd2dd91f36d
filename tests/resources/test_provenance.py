"""What is recorded of a version, so that somebody else can make it again."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from record_kit import DAYS, record
from world import ListedSource, World, at, served

from feature_repo.lake.datasets import Lake
from mlops_assets.resources.environments import Settings, load_settings
from mlops_assets.resources.provenance import (
    ROOT,
    Record,
    RecordError,
    base_folder,
    ingested,
    inputs,
    provenance,
    unreproducible,
)
from mlops_assets.use_cases.fraud.case import FRAUD

VIEWS = ("customer_stats",)
CLEAN = {"git_commit": "abc", "git_dirty": "false"}


@pytest.mark.parametrize(
    ("tags", "why"),
    [
        (CLEAN, None),
        (
            {"git_commit": "abcdefabcdefabcdef", "git_dirty": "true"},
            "the tree of commit abcdefabcdef was dirty",
        ),
        ({"git_commit": "abc"}, "the tree of commit abc was dirty"),
        ({"git_commit": "none", "git_dirty": "unknown"}, "outside a git checkout"),
        ({}, "its code was outside a git checkout"),
        ({**CLEAN, "use_case_commit": "def", "use_case_dirty": "false"}, None),
        ({**CLEAN, "use_case_commit": "def", "use_case_dirty": "true"}, "the tree of commit def was dirty"),
        ({**CLEAN, "use_case_commit": "none"}, "its use case was outside a git checkout"),
    ],
)
def test_only_a_commit_and_nothing_but_that_commit_can_be_rebuilt(
    tags: dict[str, str], why: str | None
) -> None:
    said = unreproducible(tags)
    assert said is None if why is None else why in str(said)


@pytest.mark.parametrize("named", ["./parts/claims_there", "parts.claims_there.case"])
def test_a_use_case_of_another_repository_has_to_be_committed(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = tmp_path / "parts" / "claims_there" / "case.py"
    case.parent.mkdir(parents=True)
    case.write_text("CASE = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "parts", raising=False)
    monkeypatch.delitem(sys.modules, "parts.claims_there", raising=False)
    settings = Settings(home=tmp_path / "var", config_file=tmp_path / "mlops.toml", case_from=named)

    def why() -> str | None:
        return unreproducible({**provenance(settings), **CLEAN})

    def commit(*words: str) -> None:
        git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run([*git, *words], check=True)

    assert "its use case was outside a git checkout" in str(why())
    commit("init", "-q")
    (tmp_path / ".gitignore").write_text("views.py\n")
    commit("add", ".")
    commit("commit", "-qm", "first")
    assert why() is None
    (tmp_path / "beside.txt").write_text("no part of the use case")
    cached = case.parent / "__pycache__" / "case.cpython-311.pyc"
    cached.parent.mkdir(exist_ok=True)
    cached.write_bytes(b"")
    assert why() is None
    case.write_text("CASE = 2\n")
    assert "was dirty when it was trained, and what was changed there in its use case" in str(why())
    commit("commit", "-qam", "second")
    assert why() is None
    (case.parent / "views.py").write_text("VIEWS = 1\n")
    assert "was dirty" in str(why())


def test_a_record_reads_back_as_it_was_and_equal_facts_have_one_digest() -> None:
    one = record(config="[time]\nstart = 2025-03-01  # ä\r\n")
    again = Record.from_json(one.to_json(), "here")
    assert again == one
    assert again.digest == one.digest != record().digest


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "here: is no record"),
        ("[]", "here: is no record"),
        ('{"format": 1}', "here: is no record"),
        (record().to_json().replace('"format": 1', '"format": 7'), "here: has format 7"),
    ],
)
def test_what_is_no_record_is_named(text: str, said: str) -> None:
    with pytest.raises(RecordError, match=said):
        Record.from_json(text, "here")


def test_the_input_is_every_day_before_the_as_of_day_and_of_features_those_that_are_trained_on(
    tmp_path: Path,
) -> None:
    lake = Lake(tmp_path)
    for day in DAYS:
        for dataset in ("raw_transactions", "transactions", "customer_stats", "feature_vectors"):
            lake.write(
                dataset,
                day,
                pa.table({"value": [dataset, day]}),
                validated=dataset != "transactions" or day != DAYS[1],
            )
    days, unvalidated = inputs(lake, ingested(FRAUD), as_of=DAYS[2], first=DAYS[1], views=VIEWS)
    assert {name: list(found) for name, found in days.items() if found} == {
        "raw_transactions": [DAYS[0], DAYS[1]],
        "transactions": [DAYS[0], DAYS[1]],
        "customer_stats": [DAYS[1]],
        "feature_vectors": [DAYS[1]],
    }
    assert unvalidated == {"transactions": [DAYS[1]]}
    manifest = lake.manifests("transactions", [DAYS[0]])[0]
    assert days["transactions"][DAYS[0]] == [file.sha256 for file in manifest.files]


def test_a_day_on_which_nothing_was_served_is_no_input(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    for day, rows in zip(DAYS, (0, 1, 0), strict=True):
        lake.write(
            "prediction_log",
            day,
            pa.table({"prediction_id": pa.array(["a"] * rows, pa.string())}),
            validated=True,
        )
    days, _ = inputs(lake, ingested(FRAUD), as_of="2025-03-04", first=DAYS[0], views=())
    assert list(days["prediction_log"]) == [DAYS[1]]


def test_paths_of_the_configuration_start_in_the_checkout_or_at_an_absolute_folder(tmp_path: Path) -> None:
    assert base_folder(Settings(home=tmp_path, config_file=ROOT / "docs" / "demo.toml")) == "docs"
    assert base_folder(Settings(home=tmp_path, config_file=tmp_path / "mlops.toml")) == str(
        tmp_path.resolve()
    )
    assert base_folder(Settings(home=tmp_path)) == ""


def test_the_configuration_that_is_recorded_is_the_one_that_was_read(tmp_path: Path) -> None:
    place, text = tmp_path / "mlops.toml", "[time]\r\nstart = 2025-03-01\r\n"
    place.write_bytes(text.encode())
    settings = load_settings(place, tmp_path / "home")
    place.write_text("changed while it ran")
    assert settings.config_text == text
    assert provenance(settings)["config_digest"] == hashlib.sha256(text.encode()).hexdigest()


def test_a_copy_of_a_configuration_can_have_a_lake_of_its_own_and_the_paths_of_the_original(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "copy.toml"
    place.write_text('[storage]\nlake = "s3://the/bank/itself"\n')
    assert (load_settings(place).lake_root, load_settings(place).base) == ("s3://the/bank/itself", tmp_path)
    monkeypatch.setenv("MLOPS_LAKE", str(tmp_path / "lake"))
    monkeypatch.setenv("MLOPS_CONFIG_BASE", "/where/it/was")
    settings = load_settings(place)
    assert (settings.lake_root, settings.base) == (str(tmp_path / "lake"), Path("/where/it/was"))
    assert load_settings().lake_root == str(tmp_path / "lake")


def test_what_was_blocked_is_known_from_the_lake_where_the_services_own_file_is_gone(
    settings: Settings,
) -> None:
    world = World(settings, ListedSource())
    world.source.pay("a vector", at(DAYS[1], 14))
    served(world, "blocked", at(DAYS[0]), {}, decision="BLOCK")
    served(world, "allowed", at(DAYS[0], 13), {})
    served(world, "a vector", at(DAYS[1]), {}, decision="BLOCK", kind="features")
    world.ingest(DAYS[0], "2025-03-04")
    known = world.digests(DAYS[0], "2025-03-04", "verdicts")
    assert [row["transaction_id"] for row in world.rows("verdicts", DAYS[2], "2025-03-04")] == [
        "allowed",
        "a vector",
    ]
    settings.serving_db.unlink()
    world.make("verdicts", DAYS[0], "2025-03-04")
    assert world.digests(DAYS[0], "2025-03-04", "verdicts") == known
