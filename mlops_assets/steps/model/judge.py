"""The judgement of a candidate: its reference, the holdout, and what else counts against it."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import numpy.typing as npt
import pandas as pd

from feature_repo.lake.datasets import Lake
from mlops_assets.core.judging.costs import AppliedCosts
from mlops_assets.core.judging.evaluation_record import Evaluation
from mlops_assets.core.judging.gate import Verdict, barred_now, decide
from mlops_assets.core.judging.measuring.baseline import baseline_scores
from mlops_assets.core.judging.measuring.bootstrap import value_of
from mlops_assets.core.judging.servable import lacking
from mlops_assets.core.judging.side_by_side import evaluate
from mlops_assets.core.keys import (
    FEATURE_PARITY,
    FEATURE_VECTORS,
    PREDICTION_LOG,
    TRAINED_MODEL,
)
from mlops_assets.core.learning.splits import Split
from mlops_assets.core.lifecycle.champions import DECLINED, ROLLED_BACK
from mlops_assets.core.named_features import stored_columns
from mlops_assets.core.use_case import UseCase
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import shift, to_frame
from mlops_assets.resources.provenance import unreproducible
from mlops_assets.resources.registry import EVALUATION_FIT, ModelRegistry
from mlops_assets.resources.registry_records import RegistryError, Version
from serving.contract.bundle import Release
from serving.contract.scorers.lightgbm import Scorer


def split_of(settings: Settings, as_of: str) -> Split:
    """The folds of the days before `as_of`, by the configuration."""
    model = settings.model
    usable = settings.time.start + timedelta(days=model.warm_up_days)
    return Split(
        date.fromisoformat(as_of),
        settings.verdicts.maturity_days,
        model.holdout_days,
        model.train_days,
        usable,
    )


def judge(
    case: UseCase,
    settings: Settings,
    rows: pd.DataFrame,
    candidate: Version,
    champion: Version | None,
    registry: ModelRegistry,
    unproven: list[str],
    unknown_values: npt.ArrayLike | None = None,
) -> tuple[Evaluation, Verdict, dict[str, npt.NDArray[np.float64]]]:
    """Measure the candidate against the champion on the holdout, and let the gate decide.

    Returns the evaluation, the verdict, and the scores on the holdout by name. The baseline stands in where
    there is no champion, or where the champion cannot be measured on these rows. In the second case the gate
    refuses and says why.
    """
    holdout, train_rows = rows[rows["fold"] == "holdout"], rows[rows["fold"] == "train"]
    fit = registry.evaluation_fit(candidate)
    rival = (
        _Rival()
        if champion is None
        else _rival_of(case, registry, candidate, champion, rows.columns, holdout)
    )
    scores = {"candidate": Scorer(fit.model_text, fit.calibrator).score(matrix(holdout, fit.features))}
    if rival.scores is None:
        scores["baseline"] = baseline_scores(case, train_rows, holdout, fit.features, settings.model.seed)
    else:
        scores["champion"] = rival.scores
    serving = rival.serving
    measured = evaluate(
        case,
        holdout,
        scores["candidate"],
        scores.get("champion"),
        scores.get("baseline"),
        AppliedCosts.of(case, settings.costs),
        k=settings.model.precision_k,
        seed=settings.model.seed,
        train=train_rows,
        expected_values=rival.expected,
        unknown_values=unknown_values,
    )
    verdict = decide(
        case,
        measured,
        settings.gate,
        candidate_features=fit.features,
        champion_features=serving.features if serving else None,
        missing=lacking(case, fit.plan, serving.plan if serving else None, stored_columns(case)),
        unproven=unproven,
        unreproducible=unreproducible(candidate.tags),
        objections=[*rival.objections, *latches(candidate)],
    )
    return measured, verdict, scores


@dataclass(frozen=True)
class _Rival:
    """The champion in a comparison: its release, and its scores if they may be compared.

    `expected` are the values of the holdout on which the champion was measured.
    """

    serving: Release | None = None
    expected: npt.ArrayLike | None = None
    objections: tuple[str, ...] = ()
    scores: npt.NDArray[np.float64] | None = None


def _rival_of(
    case: UseCase,
    registry: ModelRegistry,
    candidate: Version,
    champion: Version,
    columns: Collection[str],
    holdout: pd.DataFrame,
) -> _Rival:
    serving, expected, objections = registry.release(champion), None, []
    # The values come from the holdout, which a gate has seen. No gate has seen the days of the release fit's
    # drift reference. Cents for euros on these days would refuse every sound candidate.
    if value := case.decisions.value:
        expected = registry.reference(champion, EVALUATION_FIT).column(value).to_numpy()
    if champion.as_of > candidate.as_of:
        objections.append(
            f"the champion is of {champion.as_of}, newer than {candidate.as_of}: a walk-forward replaces"
            " nothing"
        )
    objections += why_not_comparable(champion, serving.features, columns, holdout)
    if objections:
        return _Rival(serving, expected, tuple(objections))
    fit = registry.evaluation_fit(champion) if _saw(champion.tags["last_day"], holdout) else serving
    scores = Scorer(fit.model_text, fit.calibrator).score(matrix(holdout, fit.features))
    return _Rival(serving, expected, scores=scores)


def why_not_comparable(
    champion: Version, features: tuple[str, ...], columns: Collection[str], holdout: pd.DataFrame
) -> list[str]:
    """The reasons why the champion cannot be measured on the holdout, each in words.

    The training set can lack a feature, or both fits of the champion have seen the days.
    """
    why = []
    if gone := [name for name in features if name not in columns]:
        why.append(f"the champion needs {', '.join(gone)}, which the training set no longer has")
    if _saw(last := champion.tags["evaluation_last_day"], holdout):
        first = holdout["event_timestamp"].min().date()
        why.append(
            f"the champion was trained to {last} even for its evaluation, and the holdout begins on {first}:"
            " it has seen the answers"
        )
    return why


def latches(candidate: Version) -> list[str]:
    """The decisions after which only a person may promote the version: a refusal by a person, a rollback."""
    return [
        f"it was {candidate.tags[tag]}: only a person promotes it again"
        for tag in (ROLLED_BACK, DECLINED)
        if tag in candidate.tags
    ]


def standing_against(
    case: UseCase, settings: Settings, lake: Lake, registry: ModelRegistry, candidate: Version
) -> list[str]:
    """The reasons why a version may not serve today, whatever the gate decided earlier.

    They are inputs that serving lacks, and days without clean parity.
    """
    champion = registry.champion()
    serving = registry.release(champion).plan if champion else None
    missing = lacking(case, registry.release(candidate).plan, serving, stored_columns(case))
    return barred_now(missing, unproven_days(lake, settings, candidate.as_of, champion))


def flat(measured: Evaluation) -> dict[str, float]:
    """The numbers of an evaluation by name, for MLflow.

    Undefined numbers are left out. The gate names them in its reasons.
    """
    values = {
        f"{who}.{name}": value for who, metrics in measured.metrics.items() for name, value in metrics.items()
    }
    values |= {"difference": measured.difference, "rows": measured.rows, "positives": measured.positives}
    values |= {
        f"{name}.{end}": bound
        for name, bounds in measured.intervals.items()
        for end, bound in zip(("low", "high"), bounds, strict=True)
    }
    unknown = {
        "unknown_rows": measured.unknown_rows,
        "unknown_share": measured.unknown_share,
    }
    if measured.value is not None:
        unknown[f"unknown_{measured.value}"] = measured.unknown_value
    values |= {name: value for name, value in unknown.items() if value is not None}
    return {name: float(value) for name, value in values.items() if value == value}


def matrix(rows: pd.DataFrame, features: tuple[str, ...]) -> npt.NDArray[np.float64]:
    """The input of a model: float64 [rows, features], with NaN for null."""
    return rows.loc[:, list(features)].to_numpy("float64")


def unproven_days(lake: Lake, settings: Settings, as_of: str, champion: Version | None) -> list[str]:
    """The served days before `as_of` that have no clean parity report, each with the reason.

    The days begin with the holdout, or with the champion's as-of day if that is later.
    """
    first = max(split_of(settings, as_of).holdout_first.isoformat(), champion.as_of if champion else "")
    unproven = []
    for served in lake.manifests(PREDICTION_LOG, lake.between(PREDICTION_LOG, first, shift(as_of, -1))):
        parity = lake.manifest(FEATURE_PARITY, served.partition)
        if served.rows and parity is None:
            unproven.append(f"{served.partition} was served and not recomputed offline")
        elif served.rows and parity is not None and not parity.validated:
            unproven.append(
                f"vectors served on {served.partition} differ from those recomputed offline without an"
                " explanation"
            )
    return unproven


def values_without_verdict(
    case: UseCase, lake: Lake, settings: Settings, as_of: str, holdout: pd.DataFrame
) -> npt.NDArray[np.float64]:
    """The values of the events of the holdout's days that arrived before `as_of` and have no verdict.

    They have no label, and silence gave no verdict. Each value is 1 where cases are counted.
    """
    split = split_of(settings, as_of)
    days = lake.between(FEATURE_VECTORS, split.holdout_first.isoformat(), shift(as_of, -1), validated=True)
    if not days:
        return np.empty(0)
    name, value = case.event.id, case.decisions.value
    columns = [name, "event_timestamp", *([value] if value else [])]
    arrived = to_frame(lake.read(FEATURE_VECTORS, days, columns))
    known = arrived[name].isin(holdout[name])
    return value_of(case, arrived[(split.label(arrived["event_timestamp"]) == "holdout") & ~known])


def _saw(last_day: str, holdout: pd.DataFrame) -> bool:
    """Whether a fit that was trained to `last_day` has seen any row of the holdout."""
    return bool((holdout["event_timestamp"] < pd.Timestamp(shift(last_day, 1), tz="UTC")).any())


def check_same_data(candidate: Version, digest: str) -> None:
    """Raise `RegistryError` where the version was trained on another training set than that of the day.

    A version is judged on the holdout of its own training set. Another holdout can have its training rows.
    """
    if (own := candidate.tags.get("training_set_digest")) != digest:
        raise RegistryError(
            f"version {candidate.version} was trained on the training set {own}, and the one as of"
            f" {candidate.as_of} is now {digest}: materialize {TRAINED_MODEL} again"
        )
