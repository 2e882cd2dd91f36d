"""Materialized views through Feast's historical call: finished rows of the lake, as they were known at each
moment.
"""

from datetime import timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureService, FeatureView, Field, FileSource
from feast.types import Float64, String
from feast_kit import START, TTL, Bank, affinity, customer, make_bank, make_profiles, profile
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.engine.local.materialized_views import MaterializedView, newest_rows
from feature_repo.engine.plan import PlanError
from feature_repo.lake.datasets import Lake
from feature_repo.plugins.entity_rows import EntityError

PROFILE = ["profile:risk", "profile:cards", "profile:segment", "profile:is_staff", "profile:joined_at"]


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return make_bank(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def profiles(bank: Bank) -> pd.DataFrame:
    return make_profiles(bank)[0]


@pytest.fixture(scope="module")
def pairs(bank: Bank, profiles: pd.DataFrame) -> pd.DataFrame:
    return make_profiles(bank)[1]


def moments(n: int = 200, seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "customer_id": [f"c{i}" for i in rng.integers(0, 14, n)],  # two of them have no rows
            "merchant_id": [f"m{i}" for i in rng.integers(0, 5, n)],
            "event_timestamp": (
                (START + pd.to_timedelta(rng.integers(-24, 15 * 24, n), unit="h")).as_unit("us")
            ),
        }
    )


def newest(rows: pd.DataFrame, at: pd.Timestamp, ttl: timedelta | None = TTL, **keys: str) -> Any:
    """What a person would look up."""
    seen = rows[
        (rows["event_timestamp"] <= at) & (rows.get("created_timestamp", rows["event_timestamp"]) <= at)
    ]
    for key, value in keys.items():
        seen = seen[seen[key] == value]
    order = ["event_timestamp", *(["created_timestamp"] if "created_timestamp" in rows else [])]
    seen = seen.sort_values(order, kind="stable").tail(1)
    return None if seen.empty or (ttl and seen["event_timestamp"].item() < at - ttl) else seen.iloc[0]


def test_each_moment_gets_the_newest_row_that_was_known(bank: Bank, profiles: pd.DataFrame) -> None:
    asked = moments()
    found = bank.store.get_historical_features(asked, features=PROFILE).to_df()
    pd.testing.assert_frame_equal(found[list(asked.columns)], asked)
    expected = [newest(profiles, r.event_timestamp, customer_id=r.customer_id) for r in asked.itertuples()]
    assert 20 < sum(e is None for e in expected) < 180
    for i, row in enumerate(expected):
        got = found.iloc[i]
        if row is None:
            assert got[["risk", "cards", "segment", "is_staff", "joined_at"]].isna().all()
        else:
            assert (got["cards"], got["segment"], got["is_staff"], got["joined_at"]) == (
                row["cards"],
                row["segment"],
                row["is_staff"],
                row["joined_at"],
            )
            assert got["risk"] == row["risk"] or (pd.isna(got["risk"]) and pd.isna(row["risk"]))


def test_types_are_those_that_were_declared(bank: Bank, profiles: pd.DataFrame) -> None:
    table = bank.store.get_historical_features(moments(), features=PROFILE).to_arrow()
    kinds = {
        name: str(table.schema.field(name).type)
        for name in ("risk", "cards", "segment", "is_staff", "joined_at")
    }
    assert kinds == {
        "risk": "double",
        "cards": "int64",
        "segment": "string",
        "is_staff": "bool",
        "joined_at": "timestamp[us, tz=UTC]",
    }


def test_a_view_may_have_two_keys_and_columns_of_other_names(bank: Bank, pairs: pd.DataFrame) -> None:
    asked = moments(400)
    found = bank.store.get_historical_features(asked, features=["affinity:affinity"]).to_df()["affinity"]
    expected = [
        newest(pairs, r.event_timestamp, None, customer_id=r.customer_id, merchant_id=r.merchant_id)
        for r in asked.itertuples()
    ]
    np.testing.assert_array_equal(found, [np.nan if e is None else e["raw_affinity"] for e in expected])
    assert found.notna().sum() > 50


times = st.integers(0, 12)


@given(
    rows=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy"), times, times), max_size=25),
    asked=st.lists(
        st.tuples(st.sampled_from(["a", "b", "z", None]), st.sampled_from(["x", "y", None]), times),
        min_size=1,
        max_size=15,
    ),
    ttl=st.sampled_from([0, 3]),
    keys=st.sampled_from([0, 1, 2]),
    scale=st.sampled_from([1, 10**17]),
)
def test_the_join_is_what_a_search_of_all_rows_finds(
    rows: Any, asked: Any, ttl: int, keys: int, scale: int
) -> None:
    """A large scale is one whose times, together with the keys, are beyond an int64."""
    view = MaterializedView("v", ("k1", "k2")[:keys], "d", "event", "created", {}, {}, ttl * scale)
    held = pa.table(
        {
            "k1": pa.array([r[0] for r in rows], pa.string()),
            "k2": pa.array([r[1] for r in rows], pa.string()),
            "event": pa.array([r[2] * scale for r in rows], pa.timestamp("us")),
            "created": pa.array([r[3] * scale for r in rows], pa.timestamp("us")),
        }
    )
    columns = [pa.chunked_array([pa.array([a[i] for a in asked], pa.string())]) for i in range(keys)]
    found = newest_rows(view, held, columns, np.array([a[2] * scale for a in asked], np.int64))
    for (*key, at), row in zip(asked, found.tolist(), strict=True):
        seen = [i for i, r in enumerate(rows) if list(r[:keys]) == key[:keys] and r[2] <= at and r[3] <= at]
        best = max(seen, key=lambda i: (rows[i][2], rows[i][3], i), default=-1)
        assert row == (-1 if best < 0 or (ttl and rows[best][2] < at - ttl) else best)


@pytest.mark.parametrize("form", ["naive", "berlin", "strings", "mixed offsets", "python", "ns", "ms", "s"])
def test_times_of_any_form_mean_the_same_moments(bank: Bank, profiles: pd.DataFrame, form: str) -> None:
    """The night of 28 October 2018, when Berlin's clocks went back, is asked for in two offsets."""
    features = ["profile:segment", "customer_stats:num_txns_7d"]
    asked = moments(60).assign(event_timestamp=lambda f: f["event_timestamp"].dt.floor("s"))
    asked.loc[0, "event_timestamp"] = pd.Timestamp("2018-10-28T00:30Z")
    asked.loc[1, "event_timestamp"] = pd.Timestamp("2018-10-28T01:30Z")
    exact = asked["event_timestamp"]
    shown: dict[str, Any] = {
        "naive": exact.dt.tz_localize(None),
        "berlin": exact.dt.tz_convert("Europe/Berlin"),
        "strings": exact.dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "mixed offsets": [t.tz_convert("Europe/Berlin").isoformat() for t in exact],
        "python": pd.Series(
            [t.to_pydatetime().astimezone(timezone(timedelta(hours=i % 5))) for i, t in enumerate(exact)],
            dtype=object,
        ),
        **{unit: exact.dt.as_unit(unit) for unit in ("ns", "ms", "s")},
    }
    expected = bank.store.get_historical_features(asked, features=features).to_df()
    found = bank.store.get_historical_features(
        asked.assign(event_timestamp=shown[form]), features=features
    ).to_df()
    pd.testing.assert_frame_equal(found[["segment", "num_txns_7d"]], expected[["segment", "num_txns_7d"]])


@pytest.mark.parametrize(
    ("times", "why"),
    [
        ([START, pd.NaT], "event_timestamp: 1 of 2 rows have no time"),
        (["2018-04-05", "yesterday"], "yesterday"),
        ([1, 2], "event_timestamp: these are int64, not times"),
    ],
)
def test_times_that_are_none_are_refused(
    bank: Bank, profiles: pd.DataFrame, times: list[Any], why: str
) -> None:
    with pytest.raises(EntityError, match=why):
        bank.store.get_historical_features(
            pd.DataFrame({"customer_id": ["c1", "c2"], "event_timestamp": times}), features=PROFILE
        )


def test_null_keys_and_repeated_rows_keep_their_places(bank: Bank, profiles: pd.DataFrame) -> None:
    one = moments(30)
    asked = pd.concat([one, one, one.head(3).assign(customer_id=None)], ignore_index=True)
    found = bank.store.get_historical_features(
        asked, features=["profile:segment", "customer_stats:num_txns_7d"]
    ).to_df()
    for column in ("segment", "num_txns_7d"):
        assert found[column][:30].tolist() == found[column][30:60].tolist()
    assert found["segment"][60:].isna().all()
    assert found["num_txns_7d"][60:].tolist() == [0, 0, 0]
    nobody = bank.store.get_historical_features(one.assign(customer_id=None), features=PROFILE).to_df()
    assert nobody["segment"].isna().all()


def test_no_rows_at_all_give_the_columns_alone(bank: Bank, profiles: pd.DataFrame) -> None:
    found = bank.store.get_historical_features(
        moments(5).head(0), features=[*PROFILE, "customer_stats:num_txns_7d"]
    ).to_df()
    assert found.empty
    assert {"risk", "segment", "num_txns_7d"} <= set(found.columns)


def test_windowed_plain_and_on_demand_views_come_in_one_service(bank: Bank, profiles: pd.DataFrame) -> None:
    asked = moments(80)
    service = FeatureService(
        name="mixed",
        features=[bank.store.get_stream_feature_view("customer_stats")[["num_txns_7d"]], profile, affinity],
    )
    bank.store.apply([service])
    everything = bank.store.get_historical_features(
        asked, features=bank.store.get_feature_service("mixed")
    ).to_df()
    assert list(everything.columns[3:]) == [
        "num_txns_7d",
        "risk",
        "cards",
        "segment",
        "is_staff",
        "joined_at",
        "affinity",
    ]
    found = bank.store.get_historical_features(
        asked, features=["risk_per_txn:risk_per_txn"], full_feature_names=True
    ).to_df()
    expected = [
        None if pd.isna(r) or not n else r / n
        for r, n in zip(everything["risk"], everything["num_txns_7d"], strict=True)
    ]
    assert [None if pd.isna(v) else v for v in found["risk_per_txn__risk_per_txn"]] == expected
    assert sum(v is not None for v in expected) > 10


def test_one_view_may_be_asked_twice_under_two_names_and_keys(bank: Bank, profiles: pd.DataFrame) -> None:
    payer = profile[["segment"]].with_name("payer").with_join_key_map({"customer_id": "payer_id"})
    friend = profile[["segment"]].with_name("friend").with_join_key_map({"customer_id": "friend_id"})
    stats = (
        bank.store.get_stream_feature_view("customer_stats")[["num_txns_7d"]]
        .with_name("theirs")
        .with_join_key_map({"customer_id": "friend_id"})
    )
    bank.store.apply([FeatureService(name="pair", features=[payer, friend, stats])])
    asked = (
        moments(50)
        .rename(columns={"customer_id": "payer_id"})
        .assign(friend_id=moments(50, seed=9)["customer_id"])
    )
    found = bank.store.get_historical_features(
        asked, features=bank.store.get_feature_service("pair"), full_feature_names=True
    ).to_df()
    for who in ("payer", "friend"):
        alone = asked[["event_timestamp"]].assign(customer_id=asked[f"{who}_id"])
        expected = bank.store.get_historical_features(
            alone, features=["profile:segment", "customer_stats:num_txns_7d"]
        ).to_df()
        assert found[f"{who}__segment"].tolist() == expected["segment"].tolist()
    assert found["theirs__num_txns_7d"].tolist() == expected["num_txns_7d"].tolist()


def test_sql_asks_plain_views_too(bank: Bank, profiles: pd.DataFrame) -> None:
    query = "SELECT customer_id, event_timestamp FROM transactions WHERE amount > 250 ORDER BY transaction_id"
    found = bank.store.get_historical_features(query, features=["profile:segment"]).to_df()
    asked = bank.transactions[bank.transactions.amount > 250].sort_values("transaction_id")[
        ["customer_id", "event_timestamp"]
    ]
    expected = bank.store.get_historical_features(asked, features=["profile:segment"]).to_df()
    assert found["segment"].tolist() == expected["segment"].tolist()


def test_a_request_field_that_sql_does_not_select_is_named(bank: Bank) -> None:
    query = "SELECT customer_id, merchant_id, event_timestamp FROM transactions"
    job = bank.store.get_historical_features(query, features=["transaction_context:is_night"])
    with pytest.raises(EntityError, match="amount, event_time_us: transaction_context needs these columns"):
        job.to_df()


def test_only_the_days_are_read_that_the_ttl_or_the_windows_reach(
    bank: Bank, profiles: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    read = Lake.read

    def counting(lake: Lake, dataset: str, partitions: Any, columns: Any = None) -> pa.Table:
        opened.extend(f"{dataset}/{p}" for p in partitions)
        return read(lake, dataset, partitions, columns)

    monkeypatch.setattr(Lake, "read", counting)
    asked = pd.DataFrame(
        {
            "customer_id": ["c1", "c2"],
            "event_timestamp": [START + pd.Timedelta(days=7), START + pd.Timedelta(days=7, hours=5)],
        }
    )
    bank.store.get_historical_features(asked, features=["profile:segment"]).to_df()
    assert opened == [f"profiles/2018-04-{d:02}" for d in (5, 6, 7, 8)]
    opened.clear()
    bank.store.get_historical_features(asked, features=["customer_stats:num_txns_1d"]).to_df()
    assert opened == [f"transactions/2018-04-{d:02}" for d in (7, 8)]


def test_days_that_are_not_validated_hold_no_rows(bank: Bank, profiles: pd.DataFrame, tmp_path: Path) -> None:
    other = make_bank(tmp_path)
    make_profiles(other)
    for day in other.lake.partitions("profiles"):
        other.lake.write("profiles", day, other.lake.read("profiles", [day]))
    assert (
        other.store.get_historical_features(moments(), features=["profile:segment"])
        .to_df()["segment"]
        .isna()
        .all()
    )


def view(path: str, **columns: Any) -> FeatureView:
    schema = [Field(name="customer_id", dtype=String), *(Field(name=n, dtype=t) for n, t in columns.items())]
    return FeatureView(
        name="odd",
        entities=[customer],
        source=FileSource(name="odd", path=path, timestamp_field="event_timestamp"),
        schema=schema,
    )


@pytest.mark.parametrize(
    ("declared", "why"),
    [
        (
            view("profiles.parquet", risk=Float64),
            "odd: its source is 'profiles.parquet', expected lake://<dataset>",
        ),
        (view("lake://profiles", height=Float64), "odd: profiles has no column height"),
        (view("lake://profiles", segment=Float64), "odd: segment of profiles is no double"),
        (
            view("lake://numbered", risk=Float64),
            "odd: ids are text or whole numbers, those of customer_id in numbered are double",
        ),
    ],
)
def test_a_declaration_that_does_not_fit_the_lake_is_refused_by_name(
    bank: Bank, profiles: pd.DataFrame, declared: Any, why: str
) -> None:
    numbered = pd.DataFrame({"customer_id": [1.5], "event_timestamp": [START], "risk": [0.5]})
    bank.lake.write(
        "numbered", "2018-04-01", pa.Table.from_pandas(numbered, preserve_index=False), validated=True
    )
    bank.store.apply([declared])
    with pytest.raises(PlanError, match=why):
        bank.store.get_historical_features(moments(), features=[f"odd:{declared.features[0].name}"]).to_df()


def test_a_schema_that_is_not_declared_is_that_of_the_newest_day(bank: Bank, profiles: pd.DataFrame) -> None:
    source = FileSource(
        name="profiles",
        path="lake://profiles",
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )
    bank.store.apply([FeatureView(name="inferred", entities=[customer], source=source, ttl=TTL)])
    asked = moments()
    found = bank.store.get_historical_features(asked, features=["inferred:risk", "inferred:segment"]).to_df()
    pd.testing.assert_frame_equal(
        found, bank.store.get_historical_features(asked, features=["profile:risk", "profile:segment"]).to_df()
    )
