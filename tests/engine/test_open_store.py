"""A home's feature store holds the declarations of one use case."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from feature_repo.store import NoDeclarations, OtherUseCase, open_store

FRAUD = "feature_repo.fraud"
SIGHTINGS = """
from datetime import timedelta

from feast import Entity, FeatureService, Field, FileSource, PushSource, StreamFeatureView, ValueType
from feast.aggregation import Aggregation
from feast.types import Int64, String

bird = Entity(name="bird", join_keys=["bird_id"], value_type=ValueType.STRING)
source = FileSource(name="sightings", path="lake://sightings", timestamp_field="event_timestamp")
seen = StreamFeatureView(
    name="seen",
    entities=[bird],
    source=PushSource(name="sightings_push", batch_source=source),
    timestamp_field="event_timestamp",
    aggregations=[
        Aggregation(column="x", function="count", time_window=timedelta(days=1), name="times_seen")
    ],
    schema=[Field(name="bird_id", dtype=String), Field(name="times_seen", dtype=Int64)],
)
service = FeatureService(name="birds", features=[seen])
"""


@pytest.fixture
def sightings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package of declarations outside the repository."""
    package = tmp_path / "packages" / "sightings"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "declared.py").write_text(SIGHTINGS)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    yield "sightings"
    for name in [n for n in sys.modules if n.split(".")[0] == "sightings"]:
        del sys.modules[name]


def test_a_package_anywhere_is_applied_and_its_home_is_closed_to_others(
    tmp_path: Path, sightings: str
) -> None:
    home = tmp_path / "home"
    store = open_store(home, sightings)
    assert [service.name for service in store.list_feature_services()] == ["birds"]
    assert [view.name for view in open_store(home, sightings).list_all_feature_views()] == ["seen"]
    with pytest.raises(
        OtherUseCase, match=r"declarations of sightings, not of feature_repo\.fraud.*MLOPS_HOME"
    ):
        open_store(home, FRAUD)
    assert [service.name for service in store.list_feature_services()] == ["birds"]


def test_a_home_of_before_says_no_owner_and_gets_one(tmp_path: Path) -> None:
    open_store(tmp_path, FRAUD)
    mark = tmp_path / "feast" / "applied"
    mark.write_text(mark.read_text().split()[-1])  # As it was written before a home had an owner.
    open_store(tmp_path, FRAUD)
    assert mark.read_text().startswith(f"{FRAUD} ")


@pytest.mark.parametrize("missing", ["feature_repo.nowhere", "nowhere_at_all"])
def test_declarations_that_are_not_there_are_named(tmp_path: Path, missing: str) -> None:
    with pytest.raises(NoDeclarations, match=missing):
        open_store(tmp_path, missing)


def test_a_package_without_a_feature_service_is_no_use_case(tmp_path: Path) -> None:
    with pytest.raises(NoDeclarations, match=r"feature_repo\.lake: .*FeatureService"):
        open_store(tmp_path, "feature_repo.lake")
