"""The sensor that rolls a promoted version back when its measurements leave the limits of the guard."""

from datetime import UTC, datetime, timedelta

import pyarrow.compute as pc
from dagster import DefaultSensorStatus, SensorDefinition, SensorResult, SkipReason, sensor

from feature_repo.times import to_us
from mlops_assets.core.lifecycle.champions import GUARD
from mlops_assets.core.use_case import UseCase
from mlops_assets.core.watching.guard import COMPARED_DAYS, Guard, Reference, Watched, judge, watched
from mlops_assets.graph.checks import observed_decision
from mlops_assets.resources.history_resource import HistoryResource
from mlops_assets.resources.promotion import Lifecycle, Overtaken
from mlops_assets.resources.registry import ModelRegistry
from mlops_assets.resources.serving_log import ServingLogResource

EVERY_S = 30


def guard_sensor(case: UseCase, guard: Guard) -> SensorDefinition:
    """The sensor that rolls the champion back within its tick.

    A run would take longer to start than the rollback takes.
    """

    @sensor(
        name="guard_champion",
        minimum_interval_seconds=EVERY_S,
        default_status=DefaultSensorStatus.RUNNING,
        description=(
            "Rolls a newly promoted version back when its scores, errors or latency leave the limits of the"
            " guard. Only a person promotes it again."
        ),
    )
    def guard_champion(
        registry: ModelRegistry, history: HistoryResource, serving_log: ServingLogResource
    ) -> SensorResult | SkipReason:
        if not guard.enabled:
            return SkipReason("turned off: [guard] enabled = false")
        decisions = history.open()
        found = watched(decisions.entries(), now := datetime.now(UTC), guard)
        if isinstance(found, str):
            return SkipReason(found)
        served = serving_log.open().measured(found.version, to_us(found.since))
        compared_us = to_us(found.since - timedelta(days=COMPARED_DAYS))
        before = serving_log.open().measured(found.before, compared_us)
        # With fewer requests the reference proves nothing, and MLflow is not asked.
        enough = served.scored >= guard.min_requests
        reference = _reference(case, registry, found.version) if enough else Reference(0, 0)
        judgement = judge(served, before, reference, guard, case.decisions.passes)
        seen = f"version {found.version} since {found.since.isoformat()}: {judgement.note}"
        if not judgement.breaches:
            return SkipReason(seen + "".join(_shared(found, text) for text in judgement.shared))
        why = "; ".join(judgement.breaches)
        try:
            row = Lifecycle(registry, decisions).roll_back(now, GUARD, why, version=found.version)
        except Overtaken as overtaken:
            return SkipReason(f"{seen}. It left its guard ({why}), but {overtaken}")
        observed = observed_decision(row, decisions.line(row), requests=served.scored + served.errors)
        rolled_back = SkipReason(f"version {row['version']} was rolled back to {row['to']}: {why}")
        return SensorResult(asset_events=[observed], skip_reason=rolled_back)

    return guard_champion


def _shared(found: Watched, text: str) -> str:
    """A breach that the predecessor had too, in words."""
    return f"; outside its guard, as version {found.before} was before it: {text}"


def _reference(case: UseCase, registry: ModelRegistry, number: str) -> Reference:
    """The rows of the version's drift reference, and how many of them its policy does not let pass.

    Scores of the evaluation fit serve as well. The policy was chosen on these scores, and the limits of the
    guard are several times wider than the difference of two fits of one recipe.
    """
    version = registry.version(number)
    scores = registry.reference(version).column(case.score)
    alarms = pc.sum(pc.greater_equal(scores, registry.release(version).policy.review)).as_py()
    return Reference(len(scores), int(alarms or 0))
