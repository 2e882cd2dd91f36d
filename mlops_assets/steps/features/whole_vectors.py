"""The feature vectors of a range of days, written and checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from feature_repo.engine.local.by_day import write_by_day
from feature_repo.engine.plan import FeaturePlan
from feature_repo.lake.datasets import Lake, Manifest
from mlops_assets.core.keys import FEATURE_VECTORS
from mlops_assets.core.use_case import UseCase
from mlops_assets.resources.lake import require_validated
from mlops_assets.steps.features.feature_summary import Summary
from mlops_assets.steps.features.joined_views import join_views, recount


@dataclass(frozen=True)
class WrittenVectors:
    """Vectors in the lake, and what is wrong with them.

    `always_null` and `outside` name features over all days. `recounted` rows of the last day were counted
    again, and `wrong` has a line for each count that differs.
    """

    manifests: Sequence[Manifest]
    summary: Summary
    always_null: Sequence[str]
    outside: Sequence[str]
    recounted: int
    wrong: Sequence[str]


def write_vectors(
    case: UseCase,
    lake: Lake,
    plan: FeaturePlan,
    days: Sequence[str],
    ranges: Mapping[str, tuple[float, float]],
) -> WrittenVectors:
    """Join the views of each day, write the vectors, and check them.

    `ranges` are the possible values of features. Raises `NotValidated` where the events of a day did not pass
    validation, and `LakeError` where the views of a day do not fit together.
    """
    require_validated(lake, case.event.dataset, days)
    summary = Summary(plan.features)
    vectors = summary.of((day, join_views(case, lake, plan, day)) for day in days)
    written = write_by_day(lake, FEATURE_VECTORS, vectors)
    recounted, wrong = recount(case, lake, plan, days[-1])
    return WrittenVectors(written, summary, summary.empty(), summary.outside(ranges), recounted, wrong)
