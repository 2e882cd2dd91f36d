"""The online state made anew from the lake and the service's log, while the service goes on."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain

from feature_repo.engine.plan import FeaturePlan, ViewPlan
from feature_repo.lake.datasets import Lake
from feature_repo.online.base import Loaded
from feature_repo.times import HOUR_US, to_us
from mlops_assets.core.data.verdict_history import verdict_columns
from mlops_assets.core.keys import VERDICTS
from mlops_assets.core.use_case import UseCase
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import shift, to_table
from mlops_assets.steps.label_matches import waiting_labels
from mlops_assets.steps.verdict_making import pending_verdicts
from serving.store.base import StateRebuild
from serving.store.opening import state_rebuild


@dataclass(frozen=True)
class Made:
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
) -> Made:
    """The lake's events, what the old state and the log learnt after it, and the verdicts that silence will
    bring; then the switch.

    A service that writes meanwhile writes to both states, and is never kept waiting for longer than a small
    commit.
    """
    started = time.monotonic()
    last = lake.partitions(case.event.dataset)[-1]
    lake_end_us = _midnight_us(shift(last, 1))
    with state_rebuild(settings.serving_db, case.subject, plan) as rebuild:
        loaded = rebuild.load_lake(lake)
        say(f"loaded {sum(loaded.values()):,} events of the lake, to {last}")
        carried = rebuild.carry_over(lake_end_us)
        waiting = waiting_labels(case, lake, settings, last)
        # Before the log is replayed: an event that only the service knows may be what a label waits for.
        rebuild.keep_waiting(waiting)
        replayed = rebuild.replay(lake_end_us, settings.maturity // timedelta(microseconds=1))
        say(f"{sum(carried.values()):,} events are newer, {replayed:,} rows of the log were gone through")
        pending = _reconcile(case, rebuild, plan, lake, settings, last)
        rebuild.pack(rebuild.counting().last_event_us(case.event.dataset) or lake_end_us)
        rebuild.switch()
        say("the new state counts")
        state = rebuild.counting()
        newest = {stream: state.newest_us(stream, lake_end_us) for stream in loaded}
        events = sum(state.count(stream) for stream in loaded)
        refused = sum(count for count, _ in state.refusals().values())
    counts = {f"{stream} of the lake": n for stream, n in loaded.items()} | {
        f"newer {stream}": n for stream, n in carried.items()
    }
    return Made(
        views=plan.views,
        events=events,
        counts={**counts, "pending verdicts": pending, "labels that wait": len(waiting)},
        silent_h={
            stream: None if us is None else (lake_end_us - us) / HOUR_US for stream, us in newest.items()
        },
        refused=refused,
        seconds=round(time.monotonic() - started, 1),
    )


def _reconcile(
    case: UseCase, rebuild: StateRebuild, plan: FeaturePlan, lake: Lake, settings: Settings, last: str
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
