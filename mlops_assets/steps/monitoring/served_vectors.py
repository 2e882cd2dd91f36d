"""Parity of a day: each served vector against the offline vector.

It gives training/serving skew as a number.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from feature_repo.engine.plan import FeaturePlan
from feature_repo.lake.datasets import Lake, Manifest
from mlops_assets.core.keys import (
    FEATURE_PARITY,
    FEATURE_VECTORS,
)
from mlops_assets.core.use_case import UseCase
from mlops_assets.core.watching.parity import Mismatch, Parity, compare, total
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import to_frame
from mlops_assets.resources.serving_log import ServingLog
from mlops_assets.steps.monitoring.decisions_of_day import DecisionsOfDay


def rows_schema(case: UseCase) -> pa.Schema:
    """The columns of the dataset `feature_parity`, with a row for each difference."""
    return pa.schema(
        [
            (case.event.id, pa.string()),
            ("feature", pa.string()),
            ("key", pa.string()),
            ("served", pa.float64()),
            ("recomputed", pa.float64()),
            ("late_s", pa.float64()),
        ]
    )


@dataclass(frozen=True)
class ParityOfDay:
    """The parity of a day in the lake. `examples` are rows of `rows_schema`."""

    manifest: Manifest
    found: Parity
    numbers: Mapping[str, float]
    examples: tuple[Mapping[str, Any], ...]


def write_parity(
    case: UseCase, lake: Lake, log: ServingLog, settings: Settings, plan: FeaturePlan, day: str
) -> ParityOfDay:
    """Compare each served vector of the day with the offline vector, and write the differences."""
    served = DecisionsOfDay(case, lake, log, settings, plan, day)
    recomputed = to_frame(lake.read(FEATURE_VECTORS, [day], [case.event.id, *plan.features]))
    found = total(
        compare(case.event.id, logged, recomputed, names, served.overtaken, served.as_read)
        for logged, names in served.vectors()
    )
    rows = tuple(_row(case, plan, served, one) for one in found.examples)
    numbers = {
        "compared": found.compared,
        "mismatches": found.mismatches,
        "explained_late": found.explained_late,
        "late_s": found.late_s,
        "missing": found.missing,
    }
    table = pa.Table.from_pylist(list(rows), schema=rows_schema(case))
    manifest = lake.write(FEATURE_PARITY, day, table, validated=found.clean, metadata=numbers)
    return ParityOfDay(manifest, found, numbers, rows)


def _row(case: UseCase, plan: FeaturePlan, served: DecisionsOfDay, one: Mismatch) -> dict[str, Any]:
    """A difference as a row of `rows_schema`, with the key whose history the feature is about."""
    asked = next(
        (view.asked_by for view in plan.views if any(a.name == one.feature for a in view.aggregates)), None
    )
    key = served.keys[asked][one.event_id] if asked else f"the {case.event.noun} itself"
    values = {"served": one.served, "recomputed": one.recomputed, "late_s": one.late_s}
    return {case.event.id: one.event_id, "feature": one.feature, "key": key, **values}
