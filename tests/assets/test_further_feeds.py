"""A use case of declarations alone: ingest of its events, of labels both ways, and of a further feed."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from dagster import PartitionKeyRange, build_asset_context
from world import checks

from feature_repo.engine.plan import FeaturePlan
from feature_repo.lake.datasets import Lake
from feature_repo.times import HOUR_US, midnight_us
from mlops_assets.assets.ingestion import ingestion_assets
from mlops_assets.cli.feed_preview import look_at_feeds
from mlops_assets.core.use_case import FeatureView, UseCase
from mlops_assets.resources.config_sections import Time, Verdicts
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import lake_of
from mlops_assets.sources.source_kinds import open_source
from serving.contract.subject import Decisions, Event, Feed, Key, Labels, Number, Text
from serving.store.base import FeedEventRow
from serving.store.opening import serving_store

FIRST, SECOND, THIRD = "2025-03-01", "2025-03-02", "2025-03-03"
CASE = UseCase(
    name="returns",
    description="Orders that come back.",
    owner="team:returns",
    declarations="returns.features",
    feature_service="returns_v1",
    event=Event(
        noun="order",
        dataset="orders",
        id="order_id",
        keys=(Key("shop"), Key("voucher", nullable=True)),
        columns=(Number("price", 0.0, 100.0), Text("level", default="plain")),
    ),
    labels=Labels("is_return", "return", "kept", "unknown", timedelta(days=1)),
    decisions=Decisions("SEND", "ASK"),
    feeds=(Feed("rebates", ("shop", "event_timestamp"), (Key("shop"),), (Number("rebate", 0.0, 1.0),)),),
    views=(FeatureView("shop_rebates", "rebates", "Rebates of the shop."),),
    drift_columns=(),
    ranges={},
)
SOURCE = {
    "kind": "files",
    "path": "orders",
    "labels": {"path": "returns"},
    "feeds": {"rebates": {"path": "rebates", "columns": {"rebate": "REBATE"}}},
}


class Shop:
    """The ingest of the use case over three days of files."""

    def __init__(self, folder: Path, source: dict[str, Any] = SOURCE) -> None:
        for name in ("orders", "returns", "rebates"):
            (folder / name).mkdir(exist_ok=True)
        self.folder = folder
        settings = Settings(home=folder / "var", config_file=folder / "config.toml", source=source)
        time = Time(date(2025, 3, 1), date(2025, 3, 3))
        ingest = replace(settings.ingest, max_quarantined_share=0.4)
        self.settings = replace(settings, time=time, verdicts=Verdicts(1), ingest=ingest)
        self.lake = Lake(self.settings.lake_root)

    def write(self, name: str, day: str, text: str) -> None:
        (self.folder / name / f"{day}.csv").write_text(text)

    def make(self, *names: str) -> Any:
        source = open_source(CASE, self.settings.source, self.settings.base)
        made = {
            key.to_user_string(): one
            for one in ingestion_assets(CASE, self.settings, source)
            for key in one.keys
        }
        for name in names:
            with build_asset_context(partition_key_range=PartitionKeyRange(FIRST, THIRD)) as context:
                outcome = list(made[name](context, lake=lake_of(self.settings, CASE)))
        return outcome

    def rows(self, name: str, *columns: str) -> list[tuple[Any, ...]]:
        table = self.lake.read(name, [FIRST, SECOND, THIRD])
        return list(zip(*(table.column(column).to_pylist() for column in columns), strict=True))


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    made = Shop(tmp_path)
    made.write("orders", FIRST, f"order_id,event_timestamp,shop,price\no1,{FIRST}T08:00:00Z,s1,10\n")
    made.write(
        "orders",
        SECOND,
        "order_id,event_timestamp,shop,voucher,price,level\n"
        f"o2,{SECOND}T08:00:00Z,s1,,200,fast\no3,{SECOND}T09:00:00Z,s2,v1,20,fast\n"
        f"o4,{SECOND}T10:00:00Z,s2,,30,fast\n",
    )
    made.write("orders", THIRD, f"order_id,event_timestamp,shop,price\no5,{THIRD}T08:00:00Z,s1,10\n")
    made.write(
        "returns",
        THIRD,
        f"order_id,is_return,label_timestamp\no1,0,{THIRD}T01:00:00Z\no3,1,{THIRD}T02:00:00Z\n",
    )
    return made


def test_a_missing_nullable_key_is_null_and_a_text_has_its_default(shop: Shop) -> None:
    shop.make("raw_orders", "orders")
    assert shop.rows("orders", "order_id", "voucher", "level") == [
        ("o1", None, "plain"),
        ("o3", "v1", "fast"),
        ("o4", None, "fast"),
        ("o5", None, "plain"),
    ]
    assert shop.rows("quarantined_orders", "order_id", "reason") == [("o2", 'price: above 100 ("200.0")')]


def test_labels_come_both_ways_and_silence_is_no_verdict(shop: Shop) -> None:
    shop.make("raw_orders", "raw_labels", "orders", "labels", "verdicts")
    found = shop.rows("verdicts", "order_id", "voucher", "is_return", "price")
    assert found == [("o1", None, False, 10.0), ("o3", "v1", True, 20.0)]
    assert "order_timestamp" in shop.lake.read("verdicts", [THIRD]).column_names


def test_a_further_feed_has_rows_quarantine_and_checks_and_no_key_twice(shop: Shop) -> None:
    head = "event_timestamp,shop,REBATE\n"
    shop.write("rebates", FIRST, f"{head}{FIRST}T08:00:00Z,s1,0.1\n{FIRST}T08:00:00Z,s2,7\n")
    # Rows of the first day again, of which one arrives a day later.
    again = f"{FIRST}T08:00:00Z,{SECOND}T01:00:00Z,s1,0.1\n{SECOND}T08:00:00Z,{SECOND}T08:00:00Z,s1,0.2\n"
    shop.write("rebates", SECOND, f"event_timestamp,created_timestamp,shop,REBATE\n{again}")
    outcome = shop.make("raw_rebates", "rebates")
    assert shop.rows("rebates", "shop", "rebate") == [("s1", 0.1), ("s1", 0.2)]
    reasons = [reason for (reason,) in shop.rows("quarantined_rebates", "reason")]
    assert reasons == ['rebate: above 1 ("7.0")', "shop, event_timestamp: accepted on another day"]
    found = checks(outcome)
    assert set(found) == {"schema", "counts", "volume"}
    assert not found["schema"].passed
    assert found["counts"].passed


def test_a_day_of_a_further_feed_that_the_service_took_is_made_from_its_log(shop: Shop) -> None:
    head = "event_timestamp,shop,REBATE\n"
    for day in (FIRST, SECOND):
        shop.write("rebates", day, f"{head}{day}T08:00:00Z,s1,0.1\n")
    (feed,) = CASE.feeds
    at_us = midnight_us(SECOND) + 9 * HOUR_US
    with closing(serving_store(shop.settings.serving_db)) as store:
        store.hold(CASE.subject, FeaturePlan("returns_v1", (), (), ()))
        with store.one_commit():
            row = FeedEventRow(1, f"s2:{at_us}", at_us, at_us, {"shop": "s2", "rebate": 0.5}, {})
            store.add_feed_event(feed, row)
    shop.make("raw_rebates", "rebates")
    assert shop.rows("rebates", "shop", "rebate") == [("s1", 0.1), ("s2", 0.5)]
    shop.write("rebates", SECOND, f"{head}{SECOND}T08:00:00Z,s1,0.1\n{SECOND}T09:00:00Z,s1,0.1\n")
    left = checks(shop.make("raw_rebates"))["nothing_left_behind"]
    assert left.passed, "files of a day that the service took do not count"


def test_a_look_at_the_feeds_shows_every_stream_before_the_first_backfill(shop: Shop) -> None:
    shop.write("rebates", FIRST, f"event_timestamp,shop,REBATE\n{FIRST}T08:00:00Z,s1,0.1\n")
    orders, labels, rebates = look_at_feeds(CASE, shop.settings, date(2025, 3, 4))
    assert (orders.name, labels.name, rebates.name) == ("orders", "labels", "rebates")
    assert rebates.mapping["rebate"] == ("REBATE", "0.1")
    assert labels.notes == ["2 of 2 labels are of orders that arrived from 2025-02-01 to 2025-03-03"]
