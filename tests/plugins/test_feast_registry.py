"""The registry file: never empty, never shrunken, never half of an apply."""

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.protos.feast.core.Registry_pb2 import Registry as RegistryProto
from feast.types import Float64, String

from feature_repo.engine.from_feast import plan_from_feast
from feature_repo.plugins.feast_gaps import EmptyApply
from feature_repo.plugins.registry_store import DamagedRegistry, RegistryChanged, names
from feature_repo.store import _open, open_store

STREAM_VIEWS = {"customer_stats", "merchant_stats", "merchant_activity"}
customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.STRING)


def view(name: str) -> FeatureView:
    source = FileSource(name=name, path=f"lake://{name}", timestamp_field="event_timestamp")
    return FeatureView(
        name=name,
        entities=[customer],
        source=source,
        ttl=timedelta(0),
        schema=[Field(name="customer_id", dtype=String), Field(name="value", dtype=Float64)],
    )


@pytest.fixture
def store(tmp_path: Path) -> Any:
    return open_store(tmp_path, "feature_repo.fraud")


@pytest.fixture
def registry(store: Any, tmp_path: Path) -> Path:
    return tmp_path / "feast" / "registry.db"


def again(home: Path) -> Any:
    """Another process's look at the registry, as Feast itself would open it."""
    return _open(home, None)


def views(home: Path) -> set[str]:
    return {v.name for v in again(home).list_all_feature_views()}


def intervals(store: Any) -> list[tuple[Any, Any]]:
    return list(store.get_stream_feature_view("customer_stats").materialization_intervals)


def cut_after(content: bytes, kept: Callable[[RegistryProto], bool]) -> bytes:
    """The longest beginning of a file that is a registry by itself and satisfies the condition."""
    for end in range(len(content) - 1, 0, -1):
        try:
            found = RegistryProto.FromString(content[:end])
        except Exception:  # whatever protobuf raises of half a message
            continue
        if kept(found):
            return content[:end]
    raise AssertionError("no such beginning")


def test_opening_again_applies_nothing(registry: Path, tmp_path: Path) -> None:
    before = registry.stat().st_mtime_ns
    assert {
        v.name for v in plan_from_feast(open_store(tmp_path, "feature_repo.fraud"), "fraud_v1").views
    } == STREAM_VIEWS
    assert registry.stat().st_mtime_ns == before


@pytest.mark.parametrize("content", [b"", b"\xff\xff\xff"])
def test_a_damaged_registry_is_refused_and_the_last_good_one_takes_its_place(
    store: Any, registry: Path, tmp_path: Path, content: bytes
) -> None:
    """With what was materialized, which no declaration knows."""
    end = pd.Timestamp("2018-04-05", tz="UTC").to_pydatetime()
    store.materialize(end - timedelta(days=1), end, feature_views=["customer_stats"])
    registry.write_bytes(content)
    with pytest.raises(DamagedRegistry, match=r"registry\.db"):
        views(tmp_path)
    recovered = open_store(tmp_path, "feature_repo.fraud")
    assert intervals(recovered) == [(end - timedelta(days=1), end)]
    assert registry.with_suffix(".damaged").read_bytes() == content


def test_what_one_home_has_materialized_is_not_claimed_by_the_next_home_of_the_process(
    store: Any, tmp_path: Path
) -> None:
    end = pd.Timestamp("2018-04-05", tz="UTC").to_pydatetime()
    store.materialize(end - timedelta(days=1), end, feature_views=["customer_stats"])
    (tmp_path / "feast" / "applied").unlink()  # as after a change of the declarations
    assert intervals(open_store(tmp_path, "feature_repo.fraud")) == [(end - timedelta(days=1), end)]
    assert intervals(open_store(tmp_path / "second", "feature_repo.fraud")) == []


def test_a_registry_that_was_cut_off_between_two_messages_is_refused_with_what_it_lacks(
    registry: Path, tmp_path: Path
) -> None:
    whole = registry.read_bytes()
    registry.write_bytes(cut_after(whole, lambda found: not found.feature_services))
    with pytest.raises(DamagedRegistry, match=r"it lacks .*feature_service fraud_v1"):
        views(tmp_path)
    assert open_store(tmp_path, "feature_repo.fraud").get_feature_service("fraud_v1").name == "fraud_v1"
    assert views(tmp_path) == {*STREAM_VIEWS, "transaction_context"}


def test_an_older_copy_that_is_put_back_is_refused(store: Any, registry: Path, tmp_path: Path) -> None:
    older = registry.read_bytes()
    store.apply([customer, view("newer")])
    registry.write_bytes(older)
    with pytest.raises(DamagedRegistry, match="it lacks data_source newer, feature_view newer"):
        views(tmp_path)
    open_store(tmp_path, "feature_repo.fraud")
    assert views(tmp_path) == {*STREAM_VIEWS, "transaction_context"}  # what is declared


def test_a_registry_without_a_good_copy_is_made_anew_from_the_declarations(
    registry: Path, tmp_path: Path
) -> None:
    registry.write_bytes(b"")
    registry.with_name("registry.db.good").write_bytes(b"\xff")
    assert {
        v.name for v in open_store(tmp_path, "feature_repo.fraud").list_stream_feature_views()
    } == STREAM_VIEWS


def test_moving_the_file_away_is_how_a_person_begins_anew(registry: Path, tmp_path: Path) -> None:
    registry.unlink()
    assert views(tmp_path) == set()
    assert {
        v.name for v in open_store(tmp_path, "feature_repo.fraud").list_stream_feature_views()
    } == STREAM_VIEWS


def test_removing_single_objects_stays_legal(store: Any, tmp_path: Path) -> None:
    store.apply([customer, view("one"), view("two")])
    store.apply([view("two")], objects_to_delete=[view("one")], partial=False)
    store.delete_feature_view("two")
    store.delete_feature_service("fraud_v1")
    assert views(tmp_path) == {*STREAM_VIEWS, "transaction_context"}
    assert again(tmp_path).list_feature_services() == []


def test_an_apply_that_would_leave_no_view_is_refused(store: Any, registry: Path, tmp_path: Path) -> None:
    """As from an empty folder, where everything that is registered counts as removed."""
    before = registry.read_bytes()
    everything = [*store.list_all_feature_views(), *store.list_feature_services(), *store.list_entities()]
    with pytest.raises(EmptyApply, match="customer_stats"):
        store.apply([], objects_to_delete=everything, partial=False)
    assert registry.read_bytes() == before
    store.apply([customer, view("other")], objects_to_delete=everything, partial=False)
    assert views(tmp_path) == {"other"}


def test_an_apply_that_fails_halfway_leaves_nothing_behind(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise OSError("in the middle")

    with monkeypatch.context() as broken:
        broken.setattr(store._get_provider(), "update_infra", fails)
        with pytest.raises(OSError, match="in the middle"):
            store.apply([customer, view("half")])
    assert "half" not in {v.name for v in store.list_all_feature_views()}
    store.apply([customer, view("whole")])
    assert views(tmp_path) >= {"whole"}
    assert "half" not in views(tmp_path)


@pytest.mark.parametrize("crash", range(1, 5))
def test_a_crash_at_any_step_of_a_write_leaves_a_registry_that_can_be_read(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash: int
) -> None:
    """One apply adds a view and removes another: the names are listed, the registry, the names and the good
    copy replaced, in this order.
    """
    store.apply([customer, view("old")])
    steps = 0
    replace = os.replace

    def dies(source: Any, target: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == crash:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            store.apply([view("new")], objects_to_delete=[view("old")], partial=False)
    others = {*STREAM_VIEWS, "transaction_context"}
    assert views(tmp_path) == (others | {"old"} if crash <= 2 else others | {"new"})
    store.apply([view("new")], objects_to_delete=[view("old")] if crash <= 2 else [], partial=False)
    assert views(tmp_path) == others | {"new"}
    assert not [p for p in (tmp_path / "feast").iterdir() if p.name.startswith(".")]


def test_what_another_process_applied_meanwhile_is_not_overwritten(store: Any, tmp_path: Path) -> None:
    other = again(tmp_path)
    mine = store.registry._registry_store.get_registry_proto()
    other.apply([customer, view("theirs")])
    with pytest.raises(RegistryChanged, match="do it again"):
        store.registry._registry_store.update_registry_proto(mine)
    store.apply([customer, view("mine")])  # which looks first
    assert views(tmp_path) >= {"mine", "theirs"}


def test_a_store_that_finds_no_file_does_not_empty_one_that_was_made_meanwhile(
    store: Any, registry: Path
) -> None:
    fresh = RegistryProto()
    store.registry._registry_store.update_registry_proto(fresh)
    assert names(fresh) == names(RegistryProto.FromString(registry.read_bytes()))


def digest_of(home: Path) -> str:
    return plan_from_feast(open_store(home, "feature_repo.fraud"), "fraud_v1").digest


def apply_three(home: Path, number: int) -> None:
    store: FeatureStore = open_store(home, "feature_repo.fraud")
    for i in range(3):
        store.apply([customer, view(f"view_{number}_{i}")])


@pytest.mark.slow
def test_processes_that_open_and_apply_at_once_lose_nothing_of_one_another(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as processes:
        assert len(set(processes.map(digest_of, [tmp_path] * 2))) == 1
        list(processes.map(apply_three, [tmp_path] * 2, range(2)))
    assert views(tmp_path) == {
        *STREAM_VIEWS,
        "transaction_context",
        *(f"view_{n}_{i}" for n in range(2) for i in range(3)),
    }
