"""A promoted version that leaves its guard is rolled back by itself: the sensor that looks at what the
service measured of it.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.compute as pc
from dagster import DefaultSensorStatus, SensorDefinition, SensorResult, SkipReason, sensor

from feature_repo.times import to_us
from mlops_assets.core.lifecycle.champions import GUARD
from mlops_assets.core.watching.guard import COMPARED_DAYS, Guard, Reference, judge, watched
from mlops_assets.graph.checks import observed_decision
from mlops_assets.resources.history_resource import HistoryResource
from mlops_assets.resources.promotion import Lifecycle, Overtaken
from mlops_assets.resources.registry import ModelRegistry
from serving.store.sqlite.measured import read_measured

EVERY_S = 30


def guard_sensor(guard: Guard, serving_db: Path) -> SensorDefinition:
    """The sensor that rolls the champion back within its tick, since a run would take longer to start than
    the rollback takes.
    """

    @sensor(
        name="guard_champion",
        minimum_interval_seconds=EVERY_S,
        default_status=DefaultSensorStatus.RUNNING,
        description=(
            "Rolls a newly promoted version back when its scores, errors or latency leave their guard;"
            " nothing promotes it again by itself."
        ),
    )
    def guard_champion(registry: ModelRegistry, history: HistoryResource) -> SensorResult | SkipReason:
        if not guard.enabled:
            return SkipReason("turned off: [guard] enabled = false")
        decisions = history.open()
        found = watched(decisions.entries(), now := datetime.now(UTC), guard)
        if isinstance(found, str):
            return SkipReason(found)
        served = read_measured(serving_db, found.version, to_us(found.since))
        before = read_measured(serving_db, found.before, to_us(found.since - timedelta(days=COMPARED_DAYS)))
        # Below that the reference says nothing, and MLflow need not be asked.
        reference = (
            _reference(registry, found.version) if served.scored >= guard.min_requests else Reference(0, 0)
        )
        judgement = judge(served, before, reference, guard)
        seen = f"version {found.version} since {found.since.isoformat()}: {judgement.note}"
        if not judgement.breaches:
            shared = "".join(
                f"; outside its guard, as version {found.before} was before it: {text}"
                for text in judgement.shared
            )
            return SkipReason(seen + shared)
        why = "; ".join(judgement.breaches)
        try:
            row = Lifecycle(registry, decisions).roll_back(now, GUARD, why, version=found.version)
        except Overtaken as overtaken:
            return SkipReason(f"{seen}. It left its guard ({why}), but {overtaken}")
        observed = observed_decision(row, decisions.line(row), requests=served.scored + served.errors)
        return SensorResult(
            asset_events=[observed],
            skip_reason=SkipReason(f"version {row['version']} was rolled back to {row['to']}: {why}"),
        )

    return guard_champion


def _reference(registry: ModelRegistry, number: str) -> Reference:
    """What the version's policy makes of the rows that it takes as normal.

    A reference with the scores of the evaluation fit counts too. The policy was found on these scores, and
    the limits are several times wider than what two fits of one recipe differ by.
    """
    version = registry.version(number)
    scores = registry.reference(version).column("fraud_score")
    alarms = pc.sum(pc.greater_equal(scores, registry.release(version).policy.review)).as_py()
    return Reference(len(scores), int(alarms or 0))
