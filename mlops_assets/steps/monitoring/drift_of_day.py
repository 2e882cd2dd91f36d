"""The drift of a day: served features and scores against the reference of the version that served."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa

from feature_repo.lake.datasets import Lake, Manifest
from feature_repo.lake.files import write_whole
from mlops_assets.core.keys import DATA_DRIFT, PREDICTION_DRIFT, PREDICTION_LOG
from mlops_assets.core.use_case import UseCase
from mlops_assets.core.watching.drift import DriftReport, data_drift, not_tested, prediction_drift
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import to_frame
from mlops_assets.resources.registry import ModelRegistry
from mlops_assets.steps.monitoring.drift_reference import why_not_compared


@dataclass(frozen=True)
class DriftOfDay:
    """A drift report in the lake.

    `version` is the version that served most of the day. `columns` has each tested column with its index,
    the largest first. `page` is the path of Evidently's page; None without a page.
    """

    manifest: Manifest
    version: str | None
    report: DriftReport
    columns: tuple[tuple[str, float], ...]
    page: Path | None

    @property
    def enough(self) -> bool:
        """Whether every column was tested."""
        return self.report.tested and not self.report.untested


def feature_drift(
    case: UseCase, lake: Lake, registry: ModelRegistry, settings: Settings, day: str
) -> DriftOfDay:
    """Write the drift of the served features of a day, against the days after the training."""
    columns = list(case.drift_columns)
    current, version = served_of_day(case, lake, day, columns)
    reference = to_frame(registry.reference(registry.version(version))) if version else current
    report = data_drift(reference, current, columns, settings.drift)
    return _write(lake, DATA_DRIFT, day, version, report, settings.home)


def score_drift(
    case: UseCase, lake: Lake, registry: ModelRegistry, settings: Settings, day: str
) -> DriftOfDay:
    """Write the drift of the scores of a day, against the same fit on the days after its training."""
    version, report = scores_against_reference(case, lake, registry, settings, day)
    return _write(lake, PREDICTION_DRIFT, day, version, report, settings.home)


def scores_against_reference(
    case: UseCase, lake: Lake, registry: ModelRegistry, settings: Settings, day: str
) -> tuple[str | None, DriftReport]:
    """The version that served most of the day, and the drift of its scores from its reference.

    Scores of two different fits are not compared.
    """
    score = case.score
    served, number = served_of_day(case, lake, day, [score])
    if number is None:
        return None, prediction_drift(served[score], served[score], settings.drift, name=score)
    version = registry.version(number)
    # On the day of a swap, scores of the other version are left out.
    scores = served.loc[served["model_version"] == number, score]
    reference = registry.reference(version).column(score).to_pandas()
    if why := why_not_compared(case, number, registry.release(version)):
        return number, not_tested(why, len(reference), len(scores))
    return number, prediction_drift(reference, scores, settings.drift, name=score)


def served_of_day(
    case: UseCase, lake: Lake, day: str, columns: Sequence[str]
) -> tuple[pd.DataFrame, str | None]:
    """The served columns of a day with `model_version`, and the version that served most.

    No rows and no version where nothing was served, or where the events of the day did not pass validation.
    Invalid data are no drift.
    """
    log = lake.read(PREDICTION_LOG, [day], ["features", case.score, "model_version"])
    feed = lake.manifest(case.event.dataset, day)
    if not log.num_rows or (feed is not None and not feed.validated):
        return pd.DataFrame({name: pd.Series([], dtype="float64") for name in columns}), None
    vectors = [json.loads(text) for text in log.column("features").to_pylist()]
    scores = log.column(case.score).to_pylist()
    served = pd.DataFrame(
        {
            name: pd.Series(scores if name == case.score else [v.get(name) for v in vectors], dtype="float64")
            for name in columns
        },
    ).assign(model_version=log.column("model_version").to_pylist())
    most, *_ = served["model_version"].mode()
    return served, str(most)


def _write(
    lake: Lake, name: str, day: str, version: str | None, report: DriftReport, home: Path
) -> DriftOfDay:
    """Write the figures to the lake, and the page to the reports of the home."""
    columns = tuple(sorted(report.columns.items(), key=lambda item: -item[1]))
    table = pa.table(
        {
            "column": pa.array([c for c, _ in columns], pa.string()),
            "value": pa.array([v for _, v in columns], pa.float64()),
        }
    )
    facts = {"drifted": report.drifted, "tested": report.tested, "note": report.note}
    manifest = lake.write(name, day, table, validated=True, metadata=facts)
    page = None
    if report.html:
        page = home / "reports" / name / f"{day}.html"
        write_whole(page, report.html.encode())
    return DriftOfDay(manifest, version, report, columns, page)
