"""What is recorded of a version, so that somebody else can make it again."""

import hashlib
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


@pytest.mark.parametrize(
    ("tags", "why"),
    [
        ({"git_commit": "abc", "git_dirty": "false"}, None),
        (
            {"git_commit": "abcdefabcdefabcdef", "git_dirty": "true"},
            "the tree of commit abcdefabcdef was dirty",
        ),
        ({"git_commit": "abc"}, "the tree of commit abc was dirty"),
        ({"git_commit": "none", "git_dirty": "unknown"}, "outside a git checkout"),
        ({}, "outside a git checkout"),
    ],
)
def test_only_a_commit_and_nothing_but_that_commit_can_be_rebuilt(
    tags: dict[str, str], why: str | None
) -> None:
    said = unreproducible(tags)
    assert said is None if why is None else why in str(said)


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
