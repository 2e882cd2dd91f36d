"""Feast's online store over the one file of the service.

Windowed views are computed from their events at the moment of reading, so no stored value can be stale.
Materialized views have the newest finished values stored, which are read within their ttl.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel, RepoConfig

from feature_repo import roots
from feature_repo.engine.from_feast import is_windowed, view_from_feast
from feature_repo.engine.local.materialized_views import materialized_from_feast
from feature_repo.engine.plan import FeaturePlan, ViewPlan
from feature_repo.errors import FeatureError
from feature_repo.online.sqlite.state import SqliteOnlineState
from feature_repo.online.sqlite.transactions import roll_back, snapshot, transaction
from feature_repo.plugins import finished_values
from feature_repo.plugins.feast_gaps import close_gaps
from feature_repo.plugins.finished_rows import finished_rows
from feature_repo.plugins.refusals import Refusals
from feature_repo.times import from_us

close_gaps()  # Feast imports this module when it first reads feature_store.yaml

WAIT_S = 2.0  # The wait for the transaction of another writer.
ALL = 1 << 62  # Later than every moment, and more than every count.
# A null key on its way through Feast, which sorts keys and fails on a null. No id has this text.
NULL_KEY = Value(string_val="\0 no key")


class FinishedValues(FeatureError):
    """A write of finished feature values for a view that keeps events."""


class StateLocked(FeatureError):
    """Another process has held the lock on the service's file for `WAIT_S` seconds. `path` is the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(f"{path}: another process has held the lock for {WAIT_S:g} s; try again")


class LakeOnlineStoreConfig(FeastConfigBaseModel):
    """The section `online_store` of feature_store.yaml."""

    type: str = "feature_repo.plugins.online_store.LakeOnlineStore"
    home: str | None = roots.VARIABLE

    @property
    def database(self) -> Path:
        """The service's file, which may not exist yet."""
        return roots.serving_db(roots.resolve(self.home or ""))


@contextmanager
def writing(database: Path, views: Sequence[ViewPlan] = ()) -> Iterator[SqliteOnlineState]:
    """The state of some views on the service's file, in one transaction. It is committed if the block
    succeeds.

    Raises `StateLocked` if the transaction cannot begin within `WAIT_S`.
    """
    with _connected(database) as connection, transaction(connection):
        yield _state(connection, views)


@contextmanager
def reading(database: Path, views: Sequence[ViewPlan] = ()) -> Iterator[SqliteOnlineState]:
    """The state of some views on the service's file, for reading.

    Reading waits for no writer. Missing tables are made first. `StateLocked` if that cannot be done within
    `WAIT_S`.
    """
    with _connected(database) as connection:
        connection.execute("PRAGMA query_only = ON")
        # The snapshot begins before the state is opened, so it holds a generation that is dropped meanwhile.
        with snapshot(connection):
            yield _state_to_read(connection, views)


class LakeOnlineStore(OnlineStore):
    """The online store that `feature_store.yaml` names."""

    def _read_features_per_fv(
        self, config: RepoConfig, grouped_refs: list[Any], join_key_values: dict[str, Any], *rest: Any
    ) -> None:
        marked = {
            name: [value if value.WhichOneof("val") else NULL_KEY for value in values]
            for name, values in join_key_values.items()
        }
        super()._read_features_per_fv(config, grouped_refs, marked, *rest)

    def online_read(
        self,
        config: RepoConfig,
        table: Any,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """The features of each key as of now, because Feast passes no time.

        A null value, and a value of a row older than its ttl, is left out, which Feast calls NOT_FOUND. A
        null key has an empty history. Raises `StateLocked`, and `NotAnId` for a key that is no id.
        """
        now_us = time.time_ns() // 1000
        if not is_windowed(table):
            with reading(config.online_store.database) as state:
                return finished_values.read(
                    state.connection, table.name, entity_keys, materialized_from_feast(table).ttl_us, now_us
                )
        # The whole view is read. For some of its columns the state would make further indexes.
        view = view_from_feast(table)
        whole = {f.name for f in table.features if str(f.dtype) == "Int64"}
        with reading(config.online_store.database, [view]) as state:
            rows = [state.aggregates({view.entity: _key(key)}, now_us) for key in entity_keys]
        now = from_us(now_us)
        return [
            (now, {name: _proto(value, name in whole) for name, value in row.items() if value is not None})
            for row in rows
        ]

    def online_write_batch(
        self, config: RepoConfig, table: Any, data: list[Any], progress: Callable[[int], Any] | None
    ) -> None:
        """Write finished values of a materialized view.

        All good rows are written. `RefusedRows` is raised afterwards if any row was refused. Raises
        `FinishedValues` for a view that keeps events.
        """
        if is_windowed(table):
            raise FinishedValues(
                f"{table.name}: this view keeps events and computes its features when asked; push the"
                " events to its source instead"
            )
        refusals = Refusals(len(data))
        write_values(config, table.name, finished_rows(data, refusals), refusals)
        if progress:
            progress(len(data))
        refusals.tell()

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[Any],
        tables_to_keep: Sequence[Any],
        entities_to_delete: Sequence[Any],
        entities_to_keep: Sequence[Any],
        partial: bool,
    ) -> None:
        """Do nothing. The first opening of a state makes the tables.

        Applying definitions therefore leaves the file of a running service alone.
        """

    def plan(self, config: RepoConfig, desired_registry_proto: Any) -> list[Any]:
        """No infrastructure: the file is made when it is first needed."""
        return []

    def teardown(self, config: RepoConfig, tables: Sequence[Any], entities: Sequence[Any]) -> None:
        """Forget the events and values of these views. The decisions in the service's file stay."""
        if not config.online_store.database.exists():
            return
        with writing(
            config.online_store.database, [view_from_feast(t) for t in tables if is_windowed(t)]
        ) as state:
            state.prune(ALL, ALL)
            for table in tables:
                finished_values.forget(state.connection, table.name)


def write_values(
    config: RepoConfig, view: str, rows: Sequence[finished_values.Row], refusals: Refusals
) -> None:
    """Write values and refusals of a materialized view, in one transaction."""
    with writing(config.online_store.database) as state:
        finished_values.write(state.connection, view, rows)
        refusals.keep(state, view)


@contextmanager
def _connected(database: Path) -> Iterator[sqlite3.Connection]:
    """A connection that waits for a lock for `WAIT_S` in all, and then raises `StateLocked`."""
    database.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + WAIT_S
    try:
        with closing(sqlite3.connect(database, timeout=WAIT_S, isolation_level=None)) as connection:
            if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                connection.execute("PRAGMA journal_mode = WAL")
            # The rest of the one wait. SQLite would wait for so long in each statement.
            left_ms = max(1, round((until - time.monotonic()) * 1000))
            connection.execute(f"PRAGMA busy_timeout = {left_ms}")
            yield connection
    except sqlite3.OperationalError as error:
        if _is(error, sqlite3.SQLITE_BUSY) or _is(error, sqlite3.SQLITE_LOCKED):
            raise StateLocked(database) from None
        raise


def _state(connection: sqlite3.Connection, views: Sequence[ViewPlan]) -> SqliteOnlineState:
    SqliteOnlineState.create_tables(connection)
    connection.execute(finished_values.TABLE)
    return SqliteOnlineState(
        connection, FeaturePlan("", tuple(views), (), tuple(a.name for v in views for a in v.aggregates))
    )


def _state_to_read(connection: sqlite3.Connection, views: Sequence[ViewPlan]) -> SqliteOnlineState:
    """The state within a snapshot. Where tables are missing, a new snapshot replaces the open one."""
    try:
        return _state(connection, views)
    except sqlite3.OperationalError as error:
        if not _is(error, sqlite3.SQLITE_READONLY):
            raise
    roll_back(connection)
    connection.execute("PRAGMA query_only = OFF")
    with transaction(connection):
        _state(connection, views)
    connection.execute("BEGIN")
    return _state(connection, views)


def _is(error: sqlite3.OperationalError, code: int) -> bool:
    """Whether an error has a result code, with or without an extended code."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == code


def _key(entity: EntityKey) -> str | None:
    """The key of a windowed view as text; None for a null key."""
    (value,) = entity.entity_values
    if value == NULL_KEY or not value.WhichOneof("val"):
        return None
    return finished_values.with_text_ids(entity).entity_values[0].string_val


def _proto(value: float | int, whole: bool) -> Value:
    return Value(int64_val=int(value)) if whole else Value(double_val=float(value))
