"""A new online state from the lake and the service's log, built while the service runs."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain

from feature_repo.engine.plan import FeaturePlan, ViewPlan
from feature_repo.lake.datasets import Lake
from feature_repo.online.base import Loaded
from feature_repo.online.sqlite.rebuild import OnlineRebuild
from feature_repo.online.sqlite.state import SqliteOnlineState
from feature_repo.times import HOUR_US, to_us
from mlops_assets.core.data.verdict_history import verdict_columns
from mlops_assets.core.keys import VERDICTS
from mlops_assets.core.use_case import UseCase
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import shift, to_table
from mlops_assets.steps.ingest.label_matches import waiting_labels
from mlops_assets.steps.ingest.verdict_making import pending_verdicts
from serving.contract.events import EventRules
from serving.store.sqlite.log_tables import create_tables

BUSY_TIMEOUT_S = 60.0
PAUSE_S = 0.001  # Between two small commits. A writer that waits for the lock gets it.
# More checkpoints would wait for the disk. Fewer would let the WAL grow during the whole rebuild.
COMMITS_A_CHECKPOINT = 50
# The cache holds the tables that are being filled; `_Pause` does the checkpoints.
PRAGMAS = (
    "journal_mode = WAL",
    "synchronous = NORMAL",
    "wal_autocheckpoint = 0",
    "cache_size = -400000",
    "mmap_size = 1073741824",
)


@dataclass(frozen=True)
class RebuiltState:
    """What a rebuild put in place.

    `counts` are the events by their origin. A pending verdict may be newer than the lake. `silent_h` has, by
    stream, the hours from its newest event to the end of the lake's last day; None for a stream without
    events. `refused` counts events that the state could not take.
    """

    views: tuple[ViewPlan, ...]
    events: int
    counts: dict[str, int]
    silent_h: dict[str, float | None]
    refused: int
    seconds: float

    @property
    def stale_views(self) -> list[str]:
        """The views whose stream has no event, or was silent for longer than the view allows."""
        return [
            view.name
            for view in self.views
            if (hours := self.silent_h[view.stream]) is None
            or (view.stale_us and hours * HOUR_US > view.stale_us)
        ]


def rebuild_online(
    case: UseCase, lake: Lake, plan: FeaturePlan, settings: Settings, say: Callable[[str], None]
) -> RebuiltState:
    """Build a new state and switch to it.

    It gets the events of the lake, the newer events of the old state and of the log, and the verdicts that
    silence will bring. A running service writes to both states, and waits at most for one small commit.
    `say` takes lines about the progress.
    """
    started = time.monotonic()
    settings.serving_db.parent.mkdir(parents=True, exist_ok=True)
    last = lake.partitions(case.event.dataset)[-1]
    lake_end_us = _midnight_us(shift(last, 1))
    with closing(
        sqlite3.connect(settings.serving_db, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    ) as connection:
        for pragma in PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        create_tables(connection, case.subject)
        rules = EventRules(case.subject)
        with OnlineRebuild(connection, plan, _Pause(connection)) as rebuild:
            loaded = rebuild.load_lake(lake)
            say(f"loaded {sum(loaded.values()):,} events of the lake, to {last}")
            carried = rebuild.carry_over(lake_end_us)
            waiting = waiting_labels(case, lake, settings, last)
            # This comes before the replay of the log: a label may wait for an event that only the service
            # knows.
            with rebuild.transaction():
                rules.keep_waiting(connection, waiting)
            replayed = _replay(rules, rebuild, SqliteOnlineState(connection, plan), lake_end_us, settings)
            say(f"{sum(carried.values()):,} events are newer, {replayed:,} rows of the log were replayed")
            pending = _reconcile(case, rebuild, plan, lake, settings, last)
            state = SqliteOnlineState(connection, plan)
            rebuild.pack(state.last_event_us(case.event.dataset) or lake_end_us)
            rebuild.switch()
            say("the new state serves")
            state.follow()
            newest = {stream: state.newest_us(stream, lake_end_us) for stream in loaded}
            events = sum(state.count(stream) for stream in loaded)
            refused = sum(count for count, _ in state.refusals().values())
    counts = {f"{stream} of the lake": n for stream, n in loaded.items()} | {
        f"newer {stream}": n for stream, n in carried.items()
    }
    return RebuiltState(
        views=plan.views,
        events=events,
        counts={**counts, "pending verdicts": pending, "labels that wait": len(waiting)},
        silent_h={
            stream: None if us is None else (lake_end_us - us) / HOUR_US for stream, us in newest.items()
        },
        refused=refused,
        seconds=round(time.monotonic() - started, 1),
    )


class _Pause:
    """A pause between two commits, in which others write and committed pages move into the file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection, self._commits = connection, 0

    def __call__(self) -> None:
        self._commits += 1
        if self._commits % COMMITS_A_CHECKPOINT == 0:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        time.sleep(PAUSE_S)


def _replay(
    rules: EventRules, rebuild: OnlineRebuild, state: SqliteOnlineState, since_us: int, settings: Settings
) -> int:
    """Replay the log, in case the old state lacks an event. Returns the number of rows replayed."""
    steps, rows = (
        rules.replay(state.connection, state, since_us, settings.maturity // timedelta(microseconds=1)),
        0,
    )
    while True:
        with rebuild.transaction():
            state.follow()
            step = next(steps, None)
        if step is None:
            return rows
        rows += step
        time.sleep(PAUSE_S)


def _reconcile(
    case: UseCase, rebuild: OnlineRebuild, plan: FeaturePlan, lake: Lake, settings: Settings, last: str
) -> int:
    """Bring the verdicts of the lake's events in line with the lake and the newer labels.

    Returns the number of pending verdicts. A pending verdict from the old state is removed where the lake has
    an earlier label. Verdicts of events that only the service knows stay unchanged.
    """
    dataset, event_id = case.event.dataset, case.event.id
    recent = shift(last, -settings.verdicts.maturity_days - settings.bounds.lateness_days)
    # This is read before the labels. Verdicts that a service adds later are not compared, so none of them is
    # taken for outdated.
    present = rebuild.ids(
        VERDICTS, _midnight_us(recent), _midnight_us(shift(last, 1 + settings.verdicts.maturity_days))
    )
    pending = to_table(pending_verdicts(case, lake, settings), verdict_columns(case)).to_pylist()
    known = lake.read(
        VERDICTS,
        lake.between(VERDICTS, recent, last, validated=True) or [last],
        [event_id, "event_timestamp"],
    ).to_pylist()
    wanted = {plan.event_id(VERDICTS, row, to_us(row["event_timestamp"])) for row in chain(pending, known)}
    subjects = lake.between(dataset, shift(recent, -settings.verdicts.maturity_days), last, validated=True)
    ids = set(lake.read(dataset, subjects, [event_id]).column(0).to_pylist()) if subjects else set()
    rebuild.remove(VERDICTS, [one for one in present if one not in wanted and one.rsplit(":", 1)[0] in ids])

    def events() -> Iterator[Loaded]:
        for row in pending:
            at_us = to_us(row["event_timestamp"])
            yield plan.event_id(VERDICTS, row, at_us), row, at_us, at_us

    return rebuild.load(VERDICTS, events())


def _midnight_us(day: str) -> int:
    return to_us(datetime.fromisoformat(day).replace(tzinfo=UTC))
