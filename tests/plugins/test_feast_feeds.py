"""Streams that no use case of the platform declares, through every call of Feast's: a further feed with a key
and an id of its own, and events that may lack a key.
"""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from feast import Entity, FeatureView, Field, FileSource, PushSource, StreamFeatureView, ValueType
from feast.aggregation import Aggregation
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Float64, Int64, String
from feast_kit import NOW, first, refusals, write_days

from feature_repo.lake.datasets import Lake
from feature_repo.plugins import online_store
from feature_repo.plugins.entity_rows import EntityError
from feature_repo.plugins.refusals import RefusedRows
from feature_repo.store import open_store

DAY = timedelta(days=1)
RIDES = ["vehicle_stats:rides", "vehicle_stats:km", "vehicle_stats:mean_km", "vehicle_stats:idle_s"]
ROADS = ["road_stats:reports", "road_stats:max_snow"]
NULLS = [None, float("nan"), pd.NA, np.float32("nan"), Value()]


def source(name: str, **tags: str) -> FileSource:
    return FileSource(
        name=name,
        path=f"lake://{name}",
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
        tags=tags,
    )


def entity(name: str, key: str) -> Entity:
    return Entity(name=name, join_keys=[key], value_type=ValueType.STRING)


depot, vehicle = entity("depot", "depot"), entity("vehicle", "vehicle_id")
rides = source(
    "rides", event_id="ride_id", keys="depot,vehicle_id", nullable="vehicle_id", **{"scale.km": "1"}
)
roads = source("roads", event_id="depot,event_timestamp", keys="depot", **{"scale.snow": "2"})


def view(name: str, of: Entity, reads: FileSource, *wanted: tuple[str, str, str]) -> StreamFeatureView:
    aggregations = [Aggregation(column=c, function=f, time_window=DAY, name=n) for f, c, n in wanted]
    return StreamFeatureView(
        name=name,
        entities=[of],
        source=PushSource(name=f"{reads.name}_of_{of.name}_push", batch_source=reads),
        timestamp_field="event_timestamp",
        aggregations=aggregations,
        schema=[
            Field(name=of.join_key, dtype=String),
            *(Field(name=n, dtype=Int64 if f == "count" else Float64) for f, _, n in wanted),
        ],
    )


RIDE_STATS = (
    ("count", "ride_id", "rides"),
    ("sum", "km", "km"),
    ("avg", "km", "mean_km"),
    ("seconds_since_last", "event_timestamp", "idle_s"),
)
by_vehicle = view("vehicle_stats", vehicle, rides, *RIDE_STATS)
by_depot = view("depot_stats", depot, rides, ("count", "ride_id", "depot_rides"))
of_roads = view("road_stats", depot, roads, ("count", "snow", "reports"), ("max", "snow", "max_snow"))
heights = FeatureView(
    name="heights",
    entities=[vehicle],
    source=source("heights"),
    ttl=timedelta(0),
    schema=[Field(name="vehicle_id", dtype=String), Field(name="height", dtype=Float64)],
)


def ride(number: int, vehicle_id: Any, **changes: Any) -> dict[str, Any]:
    at = NOW - pd.Timedelta(hours=20 - number)
    row = {"ride_id": f"r{number}", "depot": f"d{number % 2}", "vehicle_id": vehicle_id, "km": number / 2}
    return {**row, "event_timestamp": at, "created_timestamp": at, **changes}


def report(number: int, depot: str) -> dict[str, Any]:
    at = NOW - pd.Timedelta(hours=20 - number)
    return {"depot": depot, "snow": number / 4, "event_timestamp": at, "created_timestamp": at}


ALL_RIDES = pd.DataFrame([ride(n, ["v1", None, "v2"][n % 3]) for n in range(12)])
ALL_REPORTS = pd.DataFrame([report(n, f"d{n % 2}") for n in range(10)])


def pushed_in(store: Any) -> None:
    store.push("rides_of_vehicle_push", ALL_RIDES)
    store.push("rides_of_depot_push", ALL_RIDES)  # the same events again
    store.push("roads_of_depot_push", ALL_REPORTS)


def materialized(store: Any) -> None:
    store.materialize((NOW - 3 * DAY).to_pydatetime(), NOW.to_pydatetime())


@pytest.fixture
def store(tmp_path: Path) -> Any:
    lake = Lake(tmp_path / "lake")
    write_days(lake, "rides", ALL_RIDES)
    write_days(lake, "roads", ALL_REPORTS)
    write_days(
        lake, "heights", ALL_RIDES[["vehicle_id", "event_timestamp", "created_timestamp"]].assign(height=3.0)
    )
    store = open_store(tmp_path, "feature_repo.fraud")
    store.apply([depot, vehicle, by_vehicle, by_depot, of_roads, heights])
    return store


def historical(store: Any, features: list[str], **keys: Any) -> pd.DataFrame:
    asked = pd.DataFrame({**keys, "event_timestamp": NOW})
    return store.get_historical_features(asked, features=features).to_df()


@pytest.mark.parametrize("bring", [pushed_in, materialized])
def test_online_answers_are_the_historical_ones_for_any_stream_and_a_null_key(
    store: Any, bring: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    bring(store)
    monkeypatch.setattr(online_store.time, "time_ns", lambda: NOW.value)
    keys = {"depot": ["d0", "d1", "d0", None], "vehicle_id": ["v1", None, "nobody", None]}
    features = [*RIDES, *ROADS, "depot_stats:depot_rides"]
    expected = historical(store, features, **keys)
    rows = [dict(zip(keys, row, strict=True)) for row in zip(*keys.values(), strict=True)]
    found = store.get_online_features(features=features, entity_rows=rows).to_df()
    for name in (one.partition(":")[2] for one in features):
        values = found[name].astype("float64").to_numpy()
        np.testing.assert_array_equal(values, expected[name].astype("float64").to_numpy(), name)
    assert expected["rides"].tolist() == [4, 0, 0, 0]
    assert expected["km"].tolist() == [(0 + 3 + 6 + 9) / 2, 0, 0, 0]
    assert expected["mean_km"].notna().tolist() == [True, False, False, False]
    assert expected["depot_rides"].tolist() == [6, 6, 6, 0]
    assert expected["reports"].tolist() == [5, 5, 5, 0]


@pytest.mark.parametrize("null", NULLS, ids=repr)
def test_every_way_to_say_that_a_key_is_missing_is_a_null_key_online(store: Any, null: Any) -> None:
    pushed_in(store)
    expected = {"vehicle_id": None, "rides": 0, "km": 0.0, "mean_km": None, "idle_s": None}
    for rows in ([{"vehicle_id": null}], {"vehicle_id": [null]}):
        assert first(store.get_online_features(features=RIDES, entity_rows=rows)) == expected
    beside = [{"vehicle_id": "v1"}, {"vehicle_id": None}, {"vehicle_id": "v1"}, {"vehicle_id": None}]
    found = store.get_online_features(features=RIDES, entity_rows=beside).to_dict()
    assert found["rides"] == [4, 0, 4, 0]
    assert found["vehicle_id"] == ["v1", None, "v1", None]


@pytest.mark.parametrize("column", [[None, "v1"], [np.nan, "v1"], pd.array([None, "v1"], "string")], ids=repr)
def test_every_way_to_say_that_a_key_is_missing_is_a_null_key_offline(store: Any, column: Any) -> None:
    found = historical(store, RIDES, vehicle_id=column)
    assert found["rides"].tolist() == [0, 4]
    assert found["mean_km"].isna().tolist() == [True, False]


@pytest.mark.parametrize(
    "column", [[5.0, np.nan], pd.array([5, None], "Int64"), [np.nan, np.nan], [None, None]], ids=repr
)
def test_a_missing_number_is_a_null_key_too(store: Any, column: Any) -> None:
    assert historical(store, RIDES, vehicle_id=column)["rides"].tolist() == [0, 0]


def test_a_number_that_is_no_id_is_still_refused_beside_a_missing_one(store: Any) -> None:
    with pytest.raises(EntityError, match=r"vehicle_id, row 1: 5\.5 is not an identifier"):
        historical(store, RIDES, vehicle_id=[np.nan, 5.5])


def test_a_null_key_of_a_plain_view_has_no_values(store: Any) -> None:
    materialized(store)
    rows = [{"vehicle_id": "v1"}, {"vehicle_id": None}]
    found = store.get_online_features(features=["heights:height"], entity_rows=rows).to_dict()
    assert found["height"] == [3.0, None]
    assert historical(store, ["heights:height"], vehicle_id=["v1", None])["height"].isna().tolist() == [
        False,
        True,
    ]


@pytest.mark.parametrize("null", [None, float("nan"), pd.NA], ids=repr)
def test_a_key_may_be_missing_where_its_source_says_so(store: Any, null: Any) -> None:
    store.push("rides_of_vehicle_push", pd.DataFrame([ride(1, null), ride(2, "v1")]))
    store.push("rides_of_vehicle_push", pd.DataFrame([ride(3, "v1")]).drop(columns="vehicle_id"))
    store.push("rides_of_depot_push", pd.DataFrame([ride(4, null), ride(5, 7)]))
    vehicles = [{"vehicle_id": "v1"}, {"vehicle_id": "7"}, {"vehicle_id": None}]
    found = store.get_online_features(features=RIDES, entity_rows=vehicles)
    assert found.to_dict()["rides"] == [1, 1, 0]
    found = store.get_online_features(
        features=["depot_stats:depot_rides"], entity_rows=[{"depot": "d0"}, {"depot": "d1"}]
    )
    assert found.to_dict()["depot_rides"] == [2, 3]
    assert refusals(store) == {}


@pytest.mark.parametrize("name", ["depot", "ride_id"])
def test_a_key_or_an_id_that_may_not_be_missing_is_refused_by_name(store: Any, name: str) -> None:
    push = "rides_of_depot_push"
    with pytest.raises(RefusedRows, match=f"1 rows were taken and 1 refused.* {name}: None") as refused:
        store.push(push, pd.DataFrame([ride(1, "v1"), ride(2, "v1", **{name: None})]))
    assert (refused.value.row, refused.value.field) == (1, name)
    assert refusals(store) == {("rides", f"{name}: missing"): 1}
