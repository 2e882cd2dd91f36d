"""The events whose decision withholds their label, such as stopped events."""

import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.lake.datasets import Lake
from mlops_assets.core.keys import PREDICTION_LOG
from mlops_assets.core.use_case import UseCase
from serving.store.base import ServingLog


def withheld_ids(case: UseCase, lake: Lake, log: ServingLog, first: str, last: str) -> set[str]:
    """The ids of the events from `first` to `last` whose decision withholds the label.

    Decisions are read from the lake's copy of the log, which outlives the service's own file. Raises
    `MissingPartitions` for a served day that is not in `prediction_log` yet.
    """
    served = {day for day in log.served_days(case, case.event.dataset) if first <= day <= last}
    days = sorted(served.union(lake.between(PREDICTION_LOG, first, last)))
    names, noun = pa.array(case.labels.withheld_by, pa.string()), case.event.noun
    withheld: set[str] = set()
    for manifest in lake.manifests(PREDICTION_LOG, days):
        if manifest.rows:
            made = lake.read(PREDICTION_LOG, [manifest.partition], ["prediction_id", "kind", "decision"])
            if pc.any(pc.equal(made.column("kind"), noun)).as_py():
                chosen = made.filter(pc.is_in(made.column("decision"), names))
                withheld.update(chosen.column("prediction_id").to_pylist())
    return withheld
