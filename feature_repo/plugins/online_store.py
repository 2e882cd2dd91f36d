"""Feast's online store over serving's one file.

Windowed views are computed from their events at the moment of reading, so that nothing stored can be stale;
of plain views the newest finished values are kept, and read within their ttl.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel, RepoConfig

from feature_repo import roots
from feature_repo.engine.local.materialized_views import is_windowed, plain_from_feast
from feature_repo.engine.plan import FeaturePlan, ViewPlan, view_from_feast
from feature_repo.online.sqlite import finished_values
from feature_repo.online.sqlite.state import OnlineState
from feature_repo.plugins.feast_gaps import close_gaps
from feature_repo.plugins.pushes import Refusals, finished_rows
from feature_repo.times import EPOCH

close_gaps()  # here, because Feast imports this module with the first look at feature_store.yaml

WAIT_S = 2.0  # for another writer's transaction
ALL = 1 << 62  # later than every moment, more than every count


class FinishedValues(Exception):
    """Somebody wrote finished feature values, where events are kept."""


class StateLocked(Exception):
    """Another process held the lock on serving's file for as long as this one may wait."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(f"{path}: another process has held the lock for {WAIT_S:g} s; try again")


class LakeOnlineStoreConfig(FeastConfigBaseModel):
    type: str = "feature_repo.plugins.online_store.LakeOnlineStore"
    home: str | None = roots.VARIABLE

    @property
    def database(self) -> Path:
        return roots.serving_db(roots.resolve(self.home or ""))


@contextmanager
def writing(database: Path, views: Sequence[ViewPlan] = ()) -> Iterator[OnlineState]:
    """State of some views on serving's file; one transaction, committed if all went well.

    `StateLocked` if it cannot begin within `WAIT_S`.
    """
    with _connected(database) as connection:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield _state(connection, views)
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise


@contextmanager
def reading(database: Path, views: Sequence[ViewPlan] = ()) -> Iterator[OnlineState]:
    """The same to read from.

    It takes no lock that a writer could hold, except to make tables where some are missing.
    """
    with _connected(database) as connection:
        connection.execute("PRAGMA query_only = ON")
        connection.execute(
            "BEGIN"
        )  # before the state is opened: of a generation that goes meanwhile, this still sees all
        try:
            state = _state(connection, views)
        except sqlite3.OperationalError as error:
            if not _is(error, sqlite3.SQLITE_READONLY):
                raise
            connection.execute("ROLLBACK")
            connection.execute("PRAGMA query_only = OFF")
            connection.execute("BEGIN IMMEDIATE")
            _state(connection, views)
            connection.execute("COMMIT")
            connection.execute("BEGIN")
            state = _state(connection, views)
        yield state
        connection.execute("ROLLBACK")


class LakeOnlineStore(OnlineStore):
    def online_read(
        self,
        config: RepoConfig,
        table: Any,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """As of now, because Feast passes no time.

        What is null, or of a row older than its ttl, is left out, which Feast calls NOT_FOUND.
        """
        now_us = time.time_ns() // 1000
        if not is_windowed(table):
            with reading(config.online_store.database) as state:
                return finished_values.read(
                    state.connection, table.name, entity_keys, plain_from_feast(table).ttl_us, now_us
                )
        view = view_from_feast(
            table
        )  # the whole of it: for some of its columns the state would make indexes of their own
        whole = {f.name for f in table.features if str(f.dtype) == "Int64"}
        with reading(config.online_store.database, [view]) as state:
            rows = [
                state.aggregates(
                    {view.entity: finished_values.with_text_ids(key).entity_values[0].string_val}, now_us
                )
                for key in entity_keys
            ]
        now = EPOCH + timedelta(microseconds=now_us)
        return [
            (now, {name: _proto(value, name in whole) for name, value in row.items() if value is not None})
            for row in rows
        ]

    def online_write_batch(
        self, config: RepoConfig, table: Any, data: list[Any], progress: Callable[[int], Any] | None
    ) -> None:
        """Finished values of a plain view.

        The good rows go in; then `RefusedRows` says what was refused, if anything was.
        """
        if is_windowed(table):
            raise FinishedValues(
                f"{table.name}: of this view events are kept, and features computed when asked; push the"
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
        """Nothing: tables are made when a state is first opened, so that applying definitions leaves the
        running service's file alone.
        """

    def plan(self, config: RepoConfig, desired_registry_proto: Any) -> list[Any]:
        return []

    def teardown(self, config: RepoConfig, tables: Sequence[Any], entities: Sequence[Any]) -> None:
        """Forgets the events and values of these views.

        The rest of serving's file, its decisions, is not Feast's to delete.
        """
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
    """Values and refusals of a plain view, in one transaction."""
    with writing(config.online_store.database) as state:
        finished_values.write(state.connection, view, rows)
        refusals.keep(state, view)


@contextmanager
def _connected(database: Path) -> Iterator[sqlite3.Connection]:
    database.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + WAIT_S
    try:
        with closing(sqlite3.connect(database, timeout=WAIT_S, isolation_level=None)) as connection:
            if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(
                f"PRAGMA busy_timeout = {max(1, round((until - time.monotonic()) * 1000))}"
            )  # one wait, not one for each statement
            yield connection
    except sqlite3.OperationalError as error:
        if _is(error, sqlite3.SQLITE_BUSY) or _is(error, sqlite3.SQLITE_LOCKED):
            raise StateLocked(database) from None
        raise


def _state(connection: sqlite3.Connection, views: Sequence[ViewPlan]) -> OnlineState:
    OnlineState.create_tables(connection)
    connection.execute(finished_values.TABLE)
    return OnlineState(
        connection, FeaturePlan("", tuple(views), (), tuple(a.name for v in views for a in v.aggregates))
    )


def _is(error: sqlite3.OperationalError, code: int) -> bool:
    return error.sqlite_errorcode & 0xFF == code  # without what extended codes add


def _proto(value: float | int, whole: bool) -> Value:
    return Value(int64_val=int(value)) if whole else Value(double_val=float(value))
