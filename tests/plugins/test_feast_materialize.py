"""Materialized intervals: events replayed into the state of windowed views, newest values of plain ones, and
times to live.
"""

import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest
from feast_kit import START, Bank, make_bank, make_profiles, open_with_profiles, refusals

from feature_repo.plugins import online_store
from feature_repo.roots import serving_db


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    made = make_bank(tmp_path_factory.mktemp("bank"))
    make_profiles(made)
    return made


def counts(home: Path) -> tuple[int, int, int]:
    with closing(sqlite3.connect(serving_db(home))) as connection:
        tables = ("online_transactions", "online_verdicts", "feast_values")
        return tuple(connection.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in tables)  # type: ignore[return-value]


def test_materializing_an_interval_replays_what_became_known_in_it_with_one_result(
    bank: Bank, tmp_path: Path
) -> None:
    store = open_with_profiles(tmp_path, bank.home / "lake")
    middle = START + pd.Timedelta("6d12h")
    known = bank.transactions["created_timestamp"]
    store.materialize(START.to_pydatetime(), middle.to_pydatetime())
    half = counts(tmp_path)
    assert half[0] == (known <= middle).sum()
    store.materialize(START.to_pydatetime(), middle.to_pydatetime())
    assert counts(tmp_path) == half
    store.materialize(middle.to_pydatetime(), (START + pd.Timedelta("30d")).to_pydatetime())
    assert counts(tmp_path)[:2] == (900, 900)


def test_materialized_values_are_the_newest_of_each_entity(
    bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In either order of the intervals; and as of the end they are what the historical call gives."""
    store, end = open_with_profiles(tmp_path, bank.home / "lake"), START + pd.Timedelta("9d")
    for first_day, last_day in ((4, 9), (0, 4), (2, 7)):
        store.materialize(
            *((START + pd.Timedelta(days=d)).to_pydatetime() for d in (first_day, last_day)),
            feature_views=["profile", "affinity"],
        )
    monkeypatch.setattr(online_store.time, "time_ns", lambda: end.value)
    customers = [f"c{i}" for i in range(12)]
    asked = pd.DataFrame({"customer_id": customers, "event_timestamp": end})
    features = ["profile:risk", "profile:segment", "profile:cards"]
    expected = store.get_historical_features(asked, features=features).to_df()
    found = store.get_online_features(
        features=features, entity_rows=[{"customer_id": c} for c in customers]
    ).to_df()
    for name in ("risk", "segment", "cards"):
        assert (
            found[name].astype(object).where(found[name].notna(), None).tolist()
            == expected[name].astype(object).where(expected[name].notna(), None).tolist()
        )
    assert expected["segment"].notna().sum() > 5


def test_an_incremental_materialization_starts_where_the_last_one_ended(bank: Bank, tmp_path: Path) -> None:
    store, known = open_with_profiles(tmp_path, bank.home / "lake"), bank.transactions["created_timestamp"]
    store.materialize(START.to_pydatetime(), (START + pd.Timedelta("2d")).to_pydatetime())
    for day in (5, 5, 9):
        store.materialize_incremental((START + pd.Timedelta(days=day)).to_pydatetime())
        assert counts(tmp_path)[0] == (known <= START + pd.Timedelta(days=day)).sum()
    intervals = store.get_stream_feature_view("customer_stats").materialization_intervals
    assert [(s - START.to_pydatetime()).days for s, _ in intervals] == [0, 2, 5, 5]


def test_values_that_are_no_numbers_do_not_stop_a_materialization(
    bank: Bank, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = make_bank(tmp_path)
    rows, _ = make_profiles(other)
    day = other.lake.partitions("profiles")[3]
    table = other.lake.read("profiles", [day])
    risks = [float("nan"), float("inf"), *table["risk"].to_pylist()[2:]]
    at = table.column_names.index("risk")
    other.lake.write("profiles", day, table.set_column(at, "risk", [risks]), validated=True)
    other.store.materialize(
        START.to_pydatetime(), (START + pd.Timedelta("30d")).to_pydatetime(), feature_views=["profile"]
    )
    assert refusals(other.store) == {("profile", "risk: not finite"): 2}
    assert f"profile, {day}" in caplog.text
    assert counts_of_values(tmp_path) == rows["customer_id"].nunique()


def counts_of_values(home: Path) -> int:
    with closing(sqlite3.connect(serving_db(home))) as connection:
        return int(
            connection.execute("SELECT count(*) FROM feast_values WHERE view = 'profile'").fetchone()[0]
        )


def test_a_windowed_view_is_null_after_its_ttl_historically_and_online(
    bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_with_profiles(tmp_path, bank.home / "lake")
    view = store.get_stream_feature_view("customer_stats")
    view.ttl = timedelta(hours=6)
    store.apply([view])
    store.materialize(
        START.to_pydatetime(), (START + pd.Timedelta("30d")).to_pydatetime(), feature_views=["customer_stats"]
    )
    features = ["customer_stats:num_txns_7d", "customer_stats:avg_txn_amount_7d"]
    nulls = 0
    for hour in range(100, 240, 7):
        at = START + pd.Timedelta(hours=hour)
        monkeypatch.setattr(online_store.time, "time_ns", lambda at=at: at.value)
        customers = [f"c{i}" for i in range(13)]
        past = store.get_historical_features(
            pd.DataFrame({"customer_id": customers, "event_timestamp": at}), features=features
        ).to_df()
        now = store.get_online_features(
            features=features, entity_rows=[{"customer_id": c} for c in customers]
        ).to_df()
        for name in ("num_txns_7d", "avg_txn_amount_7d"):
            pd.testing.assert_series_equal(past[name].astype("float64"), now[name].astype("float64"))
        nulls += past["num_txns_7d"].isna().sum()
        assert past["num_txns_7d"].isna().tolist()[-1]  # nobody
    assert 20 < nulls < 250
