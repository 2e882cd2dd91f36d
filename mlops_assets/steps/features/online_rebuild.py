"""The online state made anew from the lake and the service's log, while the service goes on."""

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
PAUSE_S = 0.001  # Between two small commits: whoever waits for the lock gets it.
# More often, and the disk is waited for. Less often, and the WAL grows for as long as the rebuild takes.
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
    """What a rebuild put in place: how many events, by where they came from (a pending verdict may be newer
    than the lake, too), and how long each stream had been silent at the end of the lake's last day.
    """

    views: tuple[ViewPlan, ...]
    events: int
    counts: dict[str, int]
    silent_h: dict[str, float | None]
    refused: int
    seconds: float


def rebuild_online(
    case: UseCase, lake: Lake, plan: FeaturePlan, settings: Settings, say: Callable[[str], None]
) -> RebuiltState:
    """The lake's events, what the old state and the log learnt after it, and the verdicts that silence will
    bring; then the switch.

    A service that writes meanwhile writes to both states, and is never kept waiting for longer than a small
    commit.
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
            # Before the log is gone through: an event that only the service knows may be what one of them
            # waits for.
            with rebuild.transaction():
                rules.keep_waiting(connection, waiting)
            replayed = _replay(rules, rebuild, SqliteOnlineState(connection, plan), lake_end_us, settings)
            say(f"{sum(carried.values()):,} events are newer, {replayed:,} rows of the log were gone through")
            pending = _reconcile(case, rebuild, plan, lake, settings, last)
            state = SqliteOnlineState(connection, plan)
            rebuild.pack(state.last_event_us(case.event.dataset) or lake_end_us)
            rebuild.switch()
            say("the new state counts")
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
    """Between two commits: lets others write, and moves what was committed into the file."""

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
    """The log says again what the old state should have known, in case it did not."""
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
    """Make the verdicts of the lake's events what the lake and the labels since say, pending ones included.

    Returns how many are pending. A pending verdict that the old state carried over goes when a label came
    earlier by way of the lake. Events that only the service knows are left to it.
    """
    dataset, event_id = case.event.dataset, case.event.id
    recent = shift(last, -settings.verdicts.maturity_days - settings.bounds.lateness_days)
    # Read before the labels are: what a service adds from here on is not gone through, and so not taken for
    # out of date.
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
