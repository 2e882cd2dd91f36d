"""A use case that is wrong is refused when it loads, with its name and the place."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mlops_assets.cli.commands.doctor import declared_features
from mlops_assets.cli.platform import CommandError
from mlops_assets.core.named_features import check_inputs, check_named, request_fields, stored_columns
from mlops_assets.resources.config_file import ConfigError
from mlops_assets.resources.environments import Settings, load_settings
from mlops_assets.resources.feature_store import feature_store_of
from mlops_assets.resources.provenance import provenance
from mlops_assets.use_cases import USE_CASES, UseCaseError, find_use_case
from mlops_assets.use_cases.fraud.case import FRAUD
from serving.contract.subject import BadSubject

CASE = """
from datetime import timedelta

from mlops_assets.core.use_case import FeatureView, UseCase
from serving.contract.subject import Decisions, Event, Feed, Key, Labels, Number

KEYS = (Key("shop"), Key("voucher", nullable=True))
RETURNS = UseCase(
    name="returns",
    package=__package__,
    description="Orders that come back.",
    owner="team:returns",
    declarations=".features",
    feature_service="returns_v1",
    event=Event("order", "orders", "order_id", KEYS, (Number("price"),)),
    labels=Labels("is_return", "return", "kept", "unknown", timedelta(days=30)),
    decisions=Decisions("SEND", "ASK", "REFUSE", value="price"),
    feeds=(Feed("prices", ("shop", "event_timestamp"), (Key("shop"),), (Number("discount"),)),),
    views=(FeatureView("shop_stats", "orders", "Orders of the shop."),),
    drift_columns=(),
    ranges={},
)
"""
CONFIG = """
use_case = "./{folder}"

[source]
kind = "files"
path = "orders"
{more}
"""
FEEDS = '[source.feeds.prices]\npath = "prices"'
FOLDERS = iter(f"returns_{number}" for number in range(1_000))  # One name is imported once in a process.


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for a use case beside a configuration, which no longer can be imported afterwards."""
    import sys

    monkeypatch.setattr(sys, "path", [*sys.path])
    made = tmp_path / next(FOLDERS)
    made.mkdir()
    yield made
    for name in [name for name in sys.modules if name.split(".")[0] == made.name]:
        del sys.modules[name]


def loaded(folder: Path, text: str = CASE, more: str = FEEDS) -> Settings:
    (folder / "case.py").write_text(text)
    config = folder.parent / "config.toml"
    config.write_text(CONFIG.format(folder=folder.name, more=more))
    return load_settings(config, folder.parent / "var", find_case=find_use_case)


def test_a_folder_beside_the_configuration_is_a_use_case(folder: Path) -> None:
    settings = loaded(folder)
    assert (settings.use_case, settings.case_named) == ("returns", f"./{folder.name}")
    case = find_use_case(settings.case_named, settings.base)
    assert case.feast_package == f"{folder.name}.features"
    assert feature_store_of(settings, case).declarations == f"{folder.name}.features"


def test_a_module_is_a_use_case_and_a_built_in_one_goes_by_its_name(tmp_path: Path) -> None:
    assert find_use_case("mlops_assets.use_cases.fraud.case", tmp_path) is FRAUD
    assert find_use_case("fraud", tmp_path) is FRAUD
    assert "fraud" in USE_CASES
    with pytest.raises(UseCaseError, match=r"'frauds' is not known; is it fraud\?; there is .*\./returns"):
        find_use_case("frauds", tmp_path)


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        (
            'owner="team:returns"',
            'ownr="team:returns"',
            r"UseCase: unknown key 'ownr'; is it owner\?; known are",
        ),
        ('value="price"', 'value="shop"', "Decisions: value: 'shop' is no Number of the event"),
        ('"SEND", "ASK"', '"ASK", "ASK"', "Decisions: .*'?ASK"),
        ('(Number("discount"),))', '(Number("discount"),), time="")', "feed 'prices': time = ''; the time"),
        ('"shop_stats", "orders"', '"shop_stats", "order"', "views: shop_stats: stream 'order' is none of"),
        ("days=30", "days=30, hours=1", "Labels: maturity = .*; use whole days"),
        ("ranges={}", 'ranges={"x": "shop"}', "'shop' is no Number of the event"),
        ("ranges={}", 'ranges={"x": (2.0, 1.0)}', "ranges: x: 2 is above 1"),
        ("package=__package__,", "", "declarations = '.features' is in the package of the use case"),
        ("RETURNS = UseCase(", "RETURNS = dict(", "holds no UseCases; it has to hold one"),
        (
            "ranges={}",
            'ranges={"x": (2.0,)}',
            r"ranges: x: \(2.0,\) is no pair of the lowest and the highest",
        ),
        ('"is_return"', '"default"', "Labels: name: 'default' is a word of SQL; choose another name"),
        ('Number("price")', 'Number("limit")', "a Number: 'limit' is a word of SQL"),
        ('"order", "orders"', '"event", "orders"', "noun: 'event' makes the column 'event_timestamp' of the"),
        (
            '(Number("price"),)',
            '(Number("order_timestamp"),)',
            "'order_timestamp' of the verdicts, which is taken",
        ),
        ('Key("voucher", nullable=True)', 'Key("voucher", "shop")', "'shop' and 'voucher' both join 'shop'"),
        ('KEYS = (Key("shop"), ', 'KEYS = ("shop", ', "Event: keys: 'shop' is no Key"),
        (
            'KEYS = (Key("shop"), Key("voucher", nullable=True))',
            'KEYS = (Key("shop"))',
            "is no tuple; a tuple of one",
        ),
        ('("shop", "event_timestamp"), (', "(), (", "feed 'prices': id: without it all events are one"),
        ('Feed("prices"', 'Feed("verdicts"', "names of assets: 'verdicts' occurs twice"),
        ('Feed("prices"', 'Feed("raw_orders"', "names of assets: 'raw_orders' occurs twice"),
        ('"shop_stats", "orders"', '"orders", "orders"', "names of assets: 'orders' occurs twice"),
        ("drift_columns=(),", 'drift_columns=(), score="price",', "score: 'price' is a column of the event"),
        (
            '"Orders of the shop."',
            'title="Orders"',
            "FeatureView: unknown key 'title'; known are name, stream",
        ),
        ("labels=Labels(", "labels=Lables(", "case.py, line 16: NameError: name 'Lables' is not defined"),
        ("from datetime", "from datatime", "cannot be imported: No module named 'datatime'"),
        ("UseCase(\n", "UseCase(\n    =", "case.py, line 9: "),
    ],
)
def test_a_wrong_use_case_is_refused_with_name_and_place(
    folder: Path, right: str, wrong: str, message: str
) -> None:
    assert right in CASE
    with pytest.raises(ConfigError, match=message) as refused:
        loaded(folder, CASE.replace(right, wrong, 1))
    assert f"use_case './{folder.name}'" in str(refused.value)
    assert str(folder / "case.py") in str(refused.value)


def test_a_folder_without_a_case_and_one_with_a_name_that_is_taken_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UseCaseError, match=r"case\.py does not exist; it has to hold the UseCase"):
        find_use_case("./nothing", tmp_path)
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "case.py").write_text(CASE)
    with pytest.raises(UseCaseError, match=r"the name 'json' is that of .*; rename the folder"):
        find_use_case("./json", tmp_path)


def test_what_is_wrong_in_the_table_of_a_feed_is_named_with_its_place(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[source\] feeds: is missing"):
        loaded(folder, more="")
    with pytest.raises(ConfigError, match=r"feeds\.prices: unknown column 'discont'; is it discount\?"):
        loaded(folder, more=FEEDS + '\ncolumns = { discont = "D" }')
    with pytest.raises(ConfigError, match=r"\[source\] feeds: unknown key 'price'; is it prices\?"):
        loaded(folder, more=FEEDS + '\n[source.feeds.price]\npath = "p"')


def test_a_feature_or_a_view_that_is_not_declared_is_refused(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert feature_store_of(settings, FRAUD).plan("fraud_v1").features
    wrong = replace(FRAUD, drift_columns=("num_txns_8d",))
    with pytest.raises(BadSubject, match=r"drift_columns: 'num_txns_8d' is no feature .*; is it num_txns_7d"):
        feature_store_of(settings, wrong).plan("fraud_v1")
    wrong = replace(FRAUD, views=(replace(FRAUD.views[0], name="customer_stat"), *FRAUD.views[1:]))
    with pytest.raises(BadSubject, match=r"views: 'customer_stat' is no view .*; is it customer_stats"):
        feature_store_of(settings, wrong).plan("fraud_v1")
    with pytest.raises(BadSubject, match="views: 'two' is declared in it; add a FeatureView"):
        check_named({"views": ["one"]}, "it", ["one", "two"], [])


FEATURES = """
from datetime import timedelta

from feast import Entity, FeatureService, Field, FileSource, PushSource, StreamFeatureView, ValueType
from feast.aggregation import Aggregation
from feast.types import Int64, String

orders = PushSource(
    name="orders_push",
    batch_source=FileSource(
        name="orders",
        path="lake://orders",
        timestamp_field="event_timestamp",
        tags={"event_id": "order_id", "keys": "shop"},
    ),
)
shop_stats = StreamFeatureView(
    name="shop_stats",
    entities=[Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING)],
    source=orders,
    timestamp_field="event_timestamp",
    aggregations=[
        Aggregation(column="order_id", function="count", time_window=timedelta(days=1), name="num_orders_1d")
    ],
    schema=[Field(name="shop", dtype=String), Field(name="num_orders_1d", dtype=Int64)],
)
returns_v1 = FeatureService(name="returns_v1", features=[shop_stats[["num_orders_1d"]]])
"""


@pytest.mark.parametrize(
    ("file", "right", "wrong", "message"),
    [
        (
            "case.py",
            "drift_columns=()",
            'drift_columns=("num_orders_2d",)',
            r"drift_columns: 'num_orders_2d' is no feature of the feature service; is it num_orders_1d\?",
        ),
        (
            "case.py",
            '"shop_stats"',
            '"shop_stat"',
            r"views: 'shop_stat' is no view of the feature service; is it shop_stats\?",
        ),
        (
            "case.py",
            '"returns_v1"',
            '"returns_v2"',
            "no FeatureService is named 'returns_v2'; there is returns_v1",
        ),
        (
            "features.py",
            '[["num_orders_1d"]]',
            '[["num_orders_2d"]]',
            r"features\.py, line 27: Feature num_orders_2d does not exist in this feature view",
        ),
        (
            "case.py",
            'KEYS = (Key("shop"), ',
            'KEYS = (Key("shops"), ',
            r"views: shop_stats: returns_\d+\.features looks it up by 'shop', which is no key of the event;"
            r" is it shops\?",
        ),
        (
            "case.py",
            'FeatureView("shop_stats", "orders"',
            'FeatureView("shop_stats", "verdicts"',
            r"views: shop_stats: stream 'verdicts', and returns_\d+\.features aggregates 'orders'",
        ),
        (
            "features.py",
            'column="order_id", function="count"',
            'column="prize", function="max"',
            r"uses the column 'prize', which the stream 'orders' does not have; is it price\?",
        ),
    ],
)
def test_a_feature_of_a_view_that_is_not_there_is_refused_before_anything_is_made(
    folder: Path, file: str, right: str, wrong: str, message: str
) -> None:
    written = {"case.py": CASE, "features.py": FEATURES}
    assert right in written[file]
    written[file] = written[file].replace(right, wrong, 1)
    (folder / "features.py").write_text(written["features.py"])
    settings = loaded(folder, written["case.py"])
    with pytest.raises(CommandError, match=message) as refused:
        declared_features(settings, find_use_case(settings.case_named, settings.base))
    assert f"use_case './{folder.name}'" in str(refused.value)
    assert not settings.home.exists()


def test_a_transform_of_what_the_event_does_not_have_is_refused(tmp_path: Path) -> None:
    plan = feature_store_of(Settings(home=tmp_path), FRAUD).declared("fraud_v1")
    with pytest.raises(BadSubject, match="a transform uses the request's 'amount', which the event does not"):
        check_inputs(
            plan,
            "feature_repo.fraud",
            keys=plan.keys,
            request=("is_declined", "event_time_us"),
            stored=stored_columns(FRAUD),
            streams={},
        )
    assert "is_declined" in request_fields(FRAUD)


def test_the_features_of_a_right_use_case_are_counted(folder: Path) -> None:
    (folder / "features.py").write_text(FEATURES)
    settings = loaded(folder)
    case = find_use_case(settings.case_named, settings.base)
    assert declared_features(settings, case) == "1 of returns_v1"


def test_the_commit_of_the_folder_is_on_record(folder: Path) -> None:
    settings = loaded(folder)
    assert provenance(settings)["use_case_commit"] == "none"
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "case.py"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    (folder / ".gitignore").write_text("__pycache__\n.gitignore\n")
    found = provenance(settings)
    assert (found["use_case_commit"], found["use_case_dirty"]) == (head.strip(), "false")
    (folder / "case.py").write_text(CASE + "\n")
    assert provenance(settings)["use_case_dirty"] == "true"
    assert "use_case_commit" not in provenance(replace(settings, case_from=""))
