"""The simulated delivery network: the same for the same seed, day by day as in a range, with causes that a
model can learn and changes on their days.
"""

from __future__ import annotations

from datetime import date, timedelta

import pandas as pd
import pyarrow as pa
import pytest
from pydantic import ValidationError

from mlops_assets.core.data.base import by_day
from mlops_assets.use_cases.parcels.simulator import BREAK, LONGEST_HOURS, DeliveryNetwork, NetworkConfig

START = date(2026, 1, 1)
FEEDS = ("parcels", "labels", "road_conditions")


def day(n: int) -> date:
    return START + timedelta(days=n)


def network(*scenarios: dict[str, object], **settings: object) -> DeliveryNetwork:
    return DeliveryNetwork(NetworkConfig.model_validate({"scenarios": scenarios, **settings}))


def change(kind: str, first: int, last: int, **more: object) -> dict[str, object]:
    return {"kind": kind, "from": day(first), "to": day(last), **more}


def rows(made: DeliveryNetwork, feed: str, first: int, last: int) -> pa.Table:
    table = getattr(made, feed)(day(first), day(last))
    assert isinstance(table, pa.Table)
    return table


def outcomes(made: DeliveryNetwork, first: int, last: int) -> pd.DataFrame:
    """The parcels that arrived on the days, each with its label where it has one."""
    labels = rows(made, "labels", first, last + 4).to_pandas().drop(columns=["malformed", "arrival_day"])
    return rows(made, "parcels", first, last).to_pandas().merge(labels, on="parcel_id", how="left")


def late_share(found: pd.DataFrame, by: str) -> pd.Series:
    return found.dropna(subset=["is_late"]).astype({"is_late": float}).groupby(by)["is_late"].mean()


@pytest.mark.parametrize("feed", FEEDS)
def test_a_day_alone_equals_the_same_day_within_a_range(feed: str) -> None:
    together = by_day(rows(network(told_late=0.05), feed, 0, 20), day(0), day(20))
    for n in (0, 1, 9, 20):
        alone = by_day(rows(network(told_late=0.05), feed, n, n), day(n), day(n))
        assert alone[str(day(n))].equals(together[str(day(n))])
        assert alone[str(day(n))].num_rows > 0


@pytest.mark.parametrize("feed", FEEDS)
def test_the_seed_decides_everything(feed: str) -> None:
    assert rows(network(seed=3), feed, 2, 4).equals(rows(network(seed=3), feed, 2, 4))
    assert not rows(network(seed=3), feed, 2, 4).equals(rows(network(seed=4), feed, 2, 4))


def test_both_answers_arrive_at_the_delivery_and_a_cancelled_parcel_has_none() -> None:
    found = outcomes(network(cancelled=0.1, told_late=0.05), 5, 30)
    assert found["parcel_id"].is_unique
    assert found["is_late"].isna().mean() == pytest.approx(0.1, abs=0.01)
    labelled = found.dropna(subset=["is_late"])
    after = labelled["label_timestamp"] - labelled["event_timestamp"]
    assert (labelled["label_timestamp"] >= labelled["created_timestamp"]).all()
    assert after.min() > pd.Timedelta(hours=1)
    assert after.max() <= pd.Timedelta(hours=LONGEST_HOURS)
    assert (after > pd.Timedelta(days=2)).mean() < 0.01
    planned = pd.to_timedelta(labelled["planned_hours"], unit="h")
    punctual = labelled["event_timestamp"] == labelled["created_timestamp"]
    assert ((after > planned) == labelled["is_late"].astype(bool))[punctual].all()


def test_lateness_has_the_causes_that_the_features_look_for() -> None:
    found = outcomes(network(), 5, 40)
    assert found["is_late"].astype(float).mean() == pytest.approx(0.15, abs=0.02)
    carriers = late_share(found, "carrier")
    assert carriers.is_monotonic_increasing
    assert carriers.iloc[-1] > 4 * carriers.iloc[0]
    services = late_share(found, "service_level")
    assert services["express"] > 1.25 * services["standard"]
    assert late_share(found, "route").std() > 0.04
    assert late_share(found, "vehicle_id").std() > 0.08
    roads = rows(network(), "road_conditions", 5, 40).to_pandas()
    hourly = found.assign(hour=found["event_timestamp"].dt.floor("h"))
    at = hourly.merge(roads, left_on=["origin", "hour"], right_on=["depot", "event_timestamp"])
    assert len(at) == len(found)
    waits = at["hour"].dt.hour.between(BREAK[0], BREAK[1] - 1)
    busy = late_share(at[~waits].assign(busy=at["congestion"] > 0.4), "busy")
    assert busy[True] > 1.4 * busy[False]
    by_break = late_share(at.assign(waits=waits), "waits")
    assert by_break[True] > 2 * by_break[False]


def test_snow_makes_long_ways_later_than_short_ones() -> None:
    found = outcomes(network(change("winter", 5, 40)), 6, 36)
    plain = outcomes(network(), 6, 36)
    late = [late_share(days.assign(far=days["distance_km"] > 450), "far") for days in (plain, found)]
    assert late[1][True] - late[0][True] > 2 * (late[1][False] - late[0][False])


def test_some_parcels_have_no_vehicle_and_a_vehicle_has_one_carrier() -> None:
    found = rows(network(without_vehicle=0.2), "parcels", 0, 20).to_pandas()
    assert found["vehicle_id"].isna().mean() == pytest.approx(0.2, abs=0.02)
    assert (found.groupby("vehicle_id")["carrier"].nunique() == 1).all()
    assert (found["route"] == found["origin"] + "-" + found["destination"]).all()


def test_roads_are_reported_for_each_depot_and_hour_and_known_after_the_hour() -> None:
    found = rows(network(), "road_conditions", 3, 4).to_pandas()
    assert len(found) == 2 * 24 * found["depot"].nunique()
    assert not found.duplicated(["depot", "event_timestamp"]).any()
    assert ((found["created_timestamp"] - found["event_timestamp"]) == pd.Timedelta(minutes=10)).all()
    assert set(rows(network(), "parcels", 3, 4).to_pandas()["origin"]) <= set(found["depot"])


def test_a_change_moves_no_other_day() -> None:
    plain, moved = network(), network(change("winter", 10, 12), change("network", 10, 12))
    for feed in ("parcels", "road_conditions"):
        assert rows(plain, feed, 0, 9).equals(rows(moved, feed, 0, 9))
        assert rows(plain, feed, 14, 16).equals(rows(moved, feed, 14, 16))
    for feed in ("labels", "road_conditions"):
        assert not rows(plain, feed, 10, 12).equals(rows(moved, feed, 10, 12))


def test_a_winter_brings_snow_and_late_parcels() -> None:
    made = network(change("winter", 20, 40))
    before, after = rows(made, "road_conditions", 5, 19), rows(made, "road_conditions", 20, 40)
    assert before.to_pandas()["snow_cm"].max() == 0
    assert after.to_pandas()["snow_cm"].median() > 5
    assert after.to_pandas()["temperature_c"].mean() < 0 < before.to_pandas()["temperature_c"].mean()
    found = outcomes(made, 5, 36)
    found = found.assign(winter=found["arrival_day"] >= day(20))
    shares = late_share(found, "winter")
    assert shares[True] > 2 * shares[False]


def test_a_change_of_the_network_turns_the_carriers_around() -> None:
    made = network(change("network", 20, 40))
    assert late_share(outcomes(made, 5, 19), "carrier").is_monotonic_increasing
    assert late_share(outcomes(made, 20, 36), "carrier").is_monotonic_decreasing


def test_the_leaking_export_says_how_long_the_delivery_took_and_dates_labels_to_their_parcels() -> None:
    found = outcomes(network(leak=True), 5, 20).dropna(subset=["is_late"])
    assert (found["label_timestamp"] == found["event_timestamp"]).all()
    honest = outcomes(network(), 5, 20).set_index("parcel_id").loc[found["parcel_id"]]
    told = honest["is_late"].notna().to_numpy()
    assert (found["is_late"].to_numpy()[told] == honest["is_late"].to_numpy()[told]).all()
    late = found["is_late"].astype(bool).to_numpy()
    longer = found["planned_hours"].to_numpy() > honest["planned_hours"].to_numpy()
    assert (longer == late).mean() > 0.99, "the column alone tells late parcels from the others"


def test_no_day_before_the_start_and_none_that_ends_before_it_begins() -> None:
    made = network()
    for feed in FEEDS:
        nothing = rows(made, feed, -9, -1)
        assert nothing.num_rows == 0
        assert nothing.schema == rows(made, feed, 3, 3).schema
    with pytest.raises(ValidationError, match="before it begins"):
        network(change("winter", 9, 5))
    with pytest.raises(ValidationError, match="frost"):
        network(change("frost", 1, 5))
