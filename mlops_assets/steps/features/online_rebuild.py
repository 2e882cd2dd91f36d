"""A new online state from the lake and the service's log, built while the service runs."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain

from feature_repo.engine.plan import FeaturePlan, ViewPlan
from feature_repo.lake.datasets import Lake
from feature_repo.online.base import Loaded
from feature_repo.times import HOUR_US, midnight_us, to_us
from mlops_assets.core.data.verdict_history import verdict_columns
from mlops_assets.core.keys import VERDICTS
from mlops_assets.core.use_case import UseCase
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import shift, to_table
from mlops_assets.steps.ingest.label_matches import waiting_labels
from mlops_assets.steps.ingest.verdict_making import pending_verdicts
from serving.store.base import StateRebuild
from serving.store.opening import state_rebuild


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
    last = lake.partitions(case.event.dataset)[-1]
    lake_end_us = midnight_us(shift(last, 1))
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
        rebuild.pack(_newest_us(rebuild, plan, case.event.dataset) or lake_end_us)
        rebuild.switch()
        say("the new state counts")
        state = rebuild.serving()
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


def _newest_us(rebuild: StateRebuild, plan: FeaturePlan, stream: str) -> int | None:
    """When the newest event of a stream happened. None where there is none, or where no view reads it."""
    return rebuild.serving().last_event_us(stream) if stream in plan.streams else None


def _reconcile(
    case: UseCase, rebuild: StateRebuild, plan: FeaturePlan, lake: Lake, settings: Settings, last: str
) -> int:
    """Bring the verdicts of the lake's events in line with the lake and the newer labels.

    Returns the number of pending verdicts. A pending verdict from the old state is removed where the lake has
    an earlier label. Verdicts of events that only the service knows stay unchanged.
    """
    if VERDICTS not in plan.streams:
        return 0
    dataset, event_id = case.event.dataset, case.event.id
    recent = shift(last, -settings.verdicts.maturity_days - settings.bounds.lateness_days)
    # This is read before the labels. Verdicts that a service adds later are not compared, so none of them is
    # taken for outdated.
    present = rebuild.ids(
        VERDICTS, midnight_us(recent), midnight_us(shift(last, 1 + settings.verdicts.maturity_days))
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
