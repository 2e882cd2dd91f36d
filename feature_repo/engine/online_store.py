"""Feast's online store over the platform's own state: what is read is computed from events at this moment, so that nothing stored can be stale."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel, RepoConfig

from feature_repo.engine import roots
from feature_repo.engine.feast_gaps import close_gaps
from feature_repo.engine.online import OnlineState
from feature_repo.engine.plan import FeaturePlan, ViewPlan, view_from_feast

close_gaps()  # here, because Feast imports this module with the first look at feature_store.yaml

WAIT_S = 2.0  # for another writer's transaction


class FinishedValues(Exception):
    """Somebody wrote finished feature values, where events are kept."""


class LakeOnlineStoreConfig(FeastConfigBaseModel):
    type: str = "feature_repo.engine.online_store.LakeOnlineStore"
    home: str | None = roots.VARIABLE

    @property
    def database(self) -> Path:
        return roots.serving_db(roots.resolve(self.home or ""))


@contextmanager
def open_state(database: Path, views: Sequence[ViewPlan]) -> Iterator[OnlineState]:
    """State of some views on serving's file; one transaction, committed if all went well."""
    database.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(database, timeout=WAIT_S)) as connection, connection:
        connection.execute("PRAGMA journal_mode = WAL")
        OnlineState.create_tables(connection)
        yield OnlineState(connection, FeaturePlan("", tuple(views), (), tuple(a.name for v in views for a in v.aggregates)))


class LakeOnlineStore(OnlineStore):
    def online_read(
        self, config: RepoConfig, table: Any, entity_keys: list[EntityKey], requested_features: list[str] | None = None
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """Feast passes no time, so this is as of now. A null feature is left out, which Feast calls NOT_FOUND."""
        now_us = time.time_ns() // 1000
        view = view_from_feast(table, set(requested_features) if requested_features else None)
        whole = {f.name for f in table.features if str(f.dtype) == "Int64"}
        with open_state(config.online_store.database, [view]) as state:
            rows = [state.aggregates({view.entity: key.entity_values[0].string_val}, now_us) for key in entity_keys]
        now = datetime.fromtimestamp(now_us / 1e6, UTC)
        return [(now, {name: _proto(value, name in whole) for name, value in row.items() if value is not None}) for row in rows]

    def online_write_batch(self, config: RepoConfig, table: Any, data: list[Any], progress: Callable[[int], Any] | None) -> None:
        raise FinishedValues(f"{table.name}: this store keeps events and computes features when asked; push the events to the view's source instead")

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[Any],
        tables_to_keep: Sequence[Any],
        entities_to_delete: Sequence[Any],
        entities_to_keep: Sequence[Any],
        partial: bool,
    ) -> None:
        """Nothing: tables are made when a state is first opened, so that applying definitions leaves the running service's file alone."""

    def plan(self, config: RepoConfig, desired_registry_proto: Any) -> list[Any]:
        return []

    def teardown(self, config: RepoConfig, tables: Sequence[Any], entities: Sequence[Any]) -> None:
        """Drops the events of these views. The rest of serving's file, its decisions, is not Feast's to delete."""
        database = config.online_store.database
        if not database.exists():
            return
        with closing(sqlite3.connect(database, timeout=WAIT_S)) as connection, connection:
            for stream in {view_from_feast(t).stream for t in tables if getattr(t, "aggregations", None)}:
                connection.execute(f"DROP TABLE IF EXISTS online_{stream}")


def _proto(value: float | int, whole: bool) -> Value:
    return Value(int64_val=int(value)) if whole else Value(double_val=float(value))
