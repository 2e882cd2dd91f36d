"""Raw rows become accepted ones, or go to quarantine with a reason; nothing is lost, and what is downstream
is told.
"""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest
from dagster import AssetsDefinition, AssetSelection, materialize
from world import ListedSource, World, at, checks, metadata

from feature_repo.lake.datasets import Lake, MissingPartitions
from mlops_assets.core.data.verdict_history import verdicts_known
from mlops_assets.graph.checks import markdown_table
from mlops_assets.pipeline import build_pipeline
from mlops_assets.resources.config_file import ConfigError
from mlops_assets.resources.config_sections import Ingest
from mlops_assets.resources.environments import Settings, load_settings
from mlops_assets.resources.lake import NotValidated, to_frame
from mlops_assets.steps.ingest.verdict_making import verdicts_of
from mlops_assets.use_cases.fraud.case import FRAUD

DAY = "2025-03-05"
NEXT = "2025-03-06"


@pytest.fixture
def world(settings: Settings) -> World:
    return World(settings, ListedSource())


def test_bad_rows_go_to_quarantine_with_a_reason_and_the_counts_reconcile(world: World) -> None:
    for number in range(40):
        world.source.pay(f"t{number}", at(DAY, number / 4))
    world.source.pay("t1", at(DAY, 0.25))  # delivered twice
    world.source.pay("negative", at(DAY), amount=-1.0)
    world.ingest(DAY)
    outcome = world.make("transactions", DAY)
    accepted = {row["transaction_id"] for row in world.rows("transactions", DAY)}
    (bad,) = world.rows("quarantined_transactions", DAY)
    assert accepted == {f"t{number}" for number in range(40)}
    assert bad["transaction_id"] == "negative"
    assert bad["reason"] == 'amount: below 0 ("-1.0")'
    assert checks(outcome)["counts"].passed
    reasons = str(checks(outcome)["schema"].metadata["reasons"].value)
    assert '| amount: below 0 | 1 | amount: below 0 ("-1.0") |' in reasons
    assert dict(world.lake.manifests("transactions", [DAY])[0].metadata) == {
        "received": 42,
        "accepted": 40,
        "duplicate": 1,
        "quarantined": 1,
    }


def test_a_text_with_a_pipe_stays_in_its_cell_of_the_table_of_reasons() -> None:
    shown = markdown_table(["reason", "rows"], [['amount: not a number ("12|5")', 1]])
    assert str(shown.value).splitlines()[-1] == r'| amount: not a number ("12\|5") | 1 |'


def test_the_highest_believable_amount_holds_for_validation_and_for_the_ranges_of_features(
    tmp_path: Path,
) -> None:
    lines = [
        f"t{n},{DAY}T10:00:0{n}Z,c,m,{amount}" for n, amount in enumerate([2_500_000, 5_000_000, 5_000_001])
    ]
    (tmp_path / "feed.csv").write_text(
        "\n".join(["transaction_id,event_timestamp,customer_id,merchant_id,amount", *lines])
    )
    text = f'[time]\nstart = {DAY}\nend = {NEXT}\n[source]\nkind = "files"\npath = "feed.csv"\n'
    (tmp_path / "mlops.toml").write_text(
        text + "[bounds]\nmax_amount = 5_000_000\n[ingest]\nmax_quarantined_share = 0.5\n"
    )
    settings = load_settings(tmp_path / "mlops.toml", tmp_path / "home")
    pipeline = build_pipeline(FRAUD, settings)
    wanted = AssetSelection.assets("raw_transactions", "transactions", "quarantined_transactions").resolve(
        list(pipeline.assets or [])
    )
    assets = [one for one in pipeline.assets or [] if isinstance(one, AssetsDefinition) and one.keys & wanted]
    assert materialize(assets, partition_key=DAY, resources=pipeline.resources, raise_on_error=False).success
    lake = Lake(settings.lake_root)
    assert lake.read("transactions", [DAY])["amount"].to_pylist() == [2_500_000, 5_000_000]
    (bad,) = lake.read("quarantined_transactions", [DAY]).to_pylist()
    assert (bad["transaction_id"], bad["amount"]) == ("t2", "5000001")
    assert (
        bad["reason"]
        == 'amount: above 5000000, the highest believable amount ([bounds] max_amount) ("5000001.0")'
    )
    assert FRAUD.ranges_within(settings.bounds)["txn_amount"] == (0, 5_000_000)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[bounds]\nmax_amount = 0", r"\[bounds\].*max_amount = 0"),
        ("[bounds]\nahead_days = 8", r"\[bounds\].*ahead_days = 8"),
        ("[bounds]\nhighest = 8", r"\[bounds\] unknown key 'highest'"),
        ("[serving]\nfar_days = 0", r"\[serving\].*far_days = 0"),
        ('[serving]\nwhen_far = "ignore"', r"\[serving\] when_far"),
    ],
)
def test_bounds_that_cannot_be_meant_are_refused_with_section_and_key(
    tmp_path: Path, text: str, named: str
) -> None:
    (tmp_path / "mlops.toml").write_text(text)
    with pytest.raises(ConfigError, match=named):
        load_settings(tmp_path / "mlops.toml")


def test_a_feed_that_is_mostly_bad_fails_the_blocking_check_and_later_runs_refuse_it(world: World) -> None:
    world.source.pay("good", at(DAY))
    world.source.pay("bad", at(DAY), amount=float("inf"))
    world.make("raw_transactions", DAY)
    outcome = world.make("transactions", DAY)
    assert not checks(outcome)["schema"].passed
    assert not world.lake.manifests("transactions", [DAY])[0].validated
    with pytest.raises(NotValidated, match=DAY):
        world.make("customer_stats", DAY)


def test_a_day_without_a_feed_is_empty_and_fails_its_volume_check(world: World) -> None:
    world.source.pay("t1", at(DAY))
    world.ingest(DAY)
    world.make("raw_transactions", NEXT)
    outcome = world.make("transactions", NEXT)
    assert world.rows("transactions", NEXT) == []
    assert world.lake.manifests("transactions", [NEXT])[0].validated
    assert not checks(outcome)["volume"].passed
    assert NEXT in metadata(checks(outcome)["volume"], "odd days")


def test_ten_times_the_usual_rows_fail_the_volume_check(world: World) -> None:
    for number in range(9):
        world.source.pay(f"a{number}", at(f"2025-03-0{3 + number // 3}", number % 3))
    for number in range(30):
        world.source.pay(f"b{number}", at(NEXT, number / 2))
    world.ingest("2025-03-03", DAY)
    world.make("raw_transactions", NEXT)
    outcome = world.make("transactions", NEXT)
    assert not checks(outcome)["volume"].passed
    assert "30 rows where 3 are usual" in metadata(checks(outcome)["volume"], "odd days")


def test_a_late_row_belongs_to_the_day_it_arrived_on_and_rewrites_no_closed_day(world: World) -> None:
    world.source.pay("t1", at(DAY))
    world.ingest(DAY)
    before = world.digests(DAY, DAY, "transactions", "labels", "verdicts")
    world.source.pay("late", at(DAY, 20), created=at(NEXT, 3))
    world.ingest(NEXT)
    assert [row["transaction_id"] for row in world.rows("transactions", NEXT)] == ["late"]
    assert world.digests(DAY, DAY, "transactions", "labels", "verdicts") == before


def test_an_id_that_was_accepted_on_another_day_is_quarantined(world: World) -> None:
    world.source.pay("t1", at(DAY))
    world.source.pay("t1", at(NEXT), amount=99.0)
    world.ingest(DAY)
    world.make("raw_transactions", NEXT)
    world.make("transactions", NEXT)
    assert world.rows("transactions", NEXT) == []
    assert "another day" in world.rows("quarantined_transactions", NEXT)[0]["reason"]


def test_a_range_in_one_run_gives_the_same_files_as_day_by_day(world: World, settings: Settings) -> None:
    other = World(replace(settings, home=settings.home.parent / "other"), world.source)
    for number in range(60):
        day = f"2025-03-{5 + number % 6:02}"
        world.source.pay(
            f"t{number}",
            at(day, number / 3),
            customer=f"c{number % 7}",
            merchant=f"m{number % 3}",
            amount=number + 0.5,
        )
        if number % 9 == 0:
            world.source.report(f"t{number}", at(day, 30))
    days = [f"2025-03-{n:02}" for n in range(5, 12)]
    world.ingest(days[0], days[-1])
    world.features(days[0], days[-1])
    for day in days:
        other.ingest(day)
        other.features(day)
    assert world.digests(days[0], days[-1]) == other.digests(days[0], days[-1])


def test_a_label_waits_for_its_payment_and_counts_from_when_the_payment_is_learnt_of(world: World) -> None:
    world.source.pay("other", at(DAY))
    world.source.report("t1", at(DAY, 20))
    world.source.report("nobody", at(DAY, 21))
    world.source.pay("t1", at(DAY, 19), created=at(NEXT, 3))
    world.ingest(DAY)
    assert [row["transaction_id"] for row in world.rows("labels", DAY)] == ["t1", "nobody"]
    assert world.rows("quarantined_labels", DAY) == []
    assert world.rows("verdicts", DAY) == []
    outcome = world.make("labels", DAY)
    assert metadata(outcome, "waiting for their transaction") == 2
    assert checks(outcome)["counts"].passed
    world.ingest(NEXT)
    assert [
        (v["transaction_id"], v["is_fraud"], v["event_timestamp"]) for v in world.rows("verdicts", NEXT)
    ] == [("t1", True, at(NEXT, 3))]
    assert metadata(world.make("labels", DAY), "waiting for their transaction") == 2, (
        "a day is told as it was at its end"
    )


def test_silence_becomes_legitimate_at_maturity_and_a_later_label_contradicts_it_at_its_own_time(
    world: World,
) -> None:
    world.source.pay("silent", at(DAY))
    world.source.pay("late_fraud", at(DAY))
    world.source.report("late_fraud", at("2025-03-08"))
    world.ingest(DAY, "2025-03-09")
    assert world.rows("verdicts", DAY, NEXT) == []
    matured = {row["transaction_id"]: row["is_fraud"] for row in world.rows("verdicts", "2025-03-07")}
    assert matured == {"silent": False, "late_fraud": False}
    assert [(row["transaction_id"], row["is_fraud"]) for row in world.rows("verdicts", "2025-03-08")] == [
        ("late_fraud", True)
    ]


def test_the_verdicts_of_a_day_are_those_of_all_that_ever_came(world: World, settings: Settings) -> None:
    """Payments learnt of late, labels before and after maturity, a label that came before its payment, two
    that contradict each other.
    """
    days = [f"2025-03-{day:02}" for day in range(5, 18)]
    for number in range(120):
        day, late = 5 + number % 9, (0, 0, 3, 50, 100)[number % 5]
        paid = at(f"2025-03-{day:02}", number % 24)
        world.source.pay(f"t{number}", paid, created=paid + timedelta(hours=late))
        for hours in ((), (30,), (late - 1,), (100,), (7, 90), (-40,), (-30, -20))[number % 7]:
            world.source.report(f"t{number}", paid + timedelta(hours=hours), is_fraud=hours not in (90, -30))
    world.ingest("2025-03-03", days[-1])
    payments, labels = (
        to_frame(world.lake.read(name, ["2025-03-03", "2025-03-04", *days]))
        for name in ("transactions", "labels")
    )
    assert len(labels) == len(world.source.reports)
    both = payments.merge(labels, on="transaction_id")
    assert (both["label_timestamp"] < both["created_timestamp"]).any()
    expected = verdicts_known(
        FRAUD,
        payments,
        labels,
        (),
        settings.maturity,
        pd.Timestamp(days[0], tz="UTC"),
        pd.Timestamp("2025-03-18", tz="UTC"),
    )
    found = [verdicts_of(FRAUD, world.lake, settings, [day]) for day in days]
    pd.testing.assert_frame_equal(pd.concat(found, ignore_index=True), expected, check_dtype=False)


def test_a_label_waits_for_as_long_as_the_horizon_however_many_days_are_made_at_once(
    settings: Settings,
) -> None:
    world = World(replace(settings, ingest=Ingest(horizon_days=3)), ListedSource())
    days = [f"2025-03-{day:02}" for day in range(1, 15)]
    for number, apart in enumerate(range(-5, 6)):  # the label so many days after (before) its payment
        world.source.pay(f"t{number}", at("2025-03-07", number))
        world.source.report(f"t{number}", at(f"2025-03-{7 + apart:02}", 23))
    world.ingest(days[0], days[-1])
    together = verdicts_of(FRAUD, world.lake, world.settings, days)
    frauds = together[together["is_fraud"].astype(bool)]
    assert set(frauds["transaction_id"]) == {f"t{number}" for number in range(2, 9)}
    assert len(together) == 11 + 2, (
        "silence of those too far apart, and of the two whose label came after maturity"
    )
    each = pd.concat(
        [verdicts_of(FRAUD, world.lake, world.settings, [day]) for day in days], ignore_index=True
    )
    pd.testing.assert_frame_equal(each, together, check_dtype=False)


def test_a_partition_written_twice_holds_the_second_content_only_and_its_neighbours_are_untouched(
    world: World,
) -> None:
    for number in range(5):
        world.source.pay(f"t{number}", at(DAY, number))
        world.source.pay(f"u{number}", at(NEXT, number))
    world.ingest(DAY, NEXT)
    neighbour = world.digests(NEXT, NEXT, "raw_transactions", "transactions")
    world.source.payments = [
        row for row in world.source.payments if row["transaction_id"] not in ("t3", "t4")
    ]
    world.ingest(DAY)
    assert [row["transaction_id"] for row in world.rows("transactions", DAY)] == ["t0", "t1", "t2"]
    assert world.digests(NEXT, NEXT, "raw_transactions", "transactions") == neighbour


def test_a_day_that_was_never_materialized_is_named(world: World) -> None:
    with pytest.raises(MissingPartitions, match="transactions: nothing materialized for 2025-03-05"):
        world.make("customer_stats", DAY)
