"""The rows of the lake that a version as of a day is trained and measured on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from feature_repo.lake.datasets import Lake, Manifest, MissingPartitions, digest_of, encode
from mlops_assets.core.keys import FEATURE_VECTORS, TRAINING_SET, VERDICTS
from mlops_assets.core.learning.eligible_rows import assemble, event_columns
from mlops_assets.core.learning.splits import NothingToLearn
from mlops_assets.core.use_case import UseCase
from mlops_assets.errors import PlatformError
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import day_range, read_validated, shift, to_frame, to_table
from mlops_assets.steps.model.judge import split_of


class MissingDays(PlatformError, MissingPartitions):
    """Arrival days that a training reads are missing. The message has the command that makes them."""

    def __init__(self, dataset: str, days: Sequence[str], as_of: str, first: str) -> None:
        super().__init__(dataset, days)
        self.args = (
            (
                f"as of {as_of} the arrival days {first} to {shift(as_of, -1)} are read, and {self}; "
                f"`mlops backfill --from {min(days)} --to {max(days)}` makes the missing days"
            ),
        )


@dataclass(frozen=True)
class WrittenRows:
    """A training set in the lake.

    `positives` and `rows` are by fold. `left_out` are the days whose feed did not pass validation. `by_day`
    has (day, rows, positives) of the last fortnight.
    """

    manifest: Manifest
    rows: Mapping[str, int]
    positives: Mapping[str, int]
    left_out: tuple[str, ...]
    by_day: tuple[tuple[str, int, int], ...]
    enough: bool


def write_training_set(
    case: UseCase, lake: Lake, settings: Settings, as_of: str, features: tuple[str, ...]
) -> WrittenRows:
    """Assemble the training set of the day and write it.

    It is marked as validated where both folds have enough positives. Raises as `training_days`.
    """
    rows, label = training_rows(case, lake, settings, as_of, features), case.labels.name
    folds = {fold: rows.loc[rows["fold"] == fold, label] for fold in ("train", "holdout")}
    positives = {fold: int(labels.sum()) for fold, labels in folds.items()}
    enough = min(positives.values()) >= settings.gate.min_positives
    per_day = rows.groupby(rows["event_timestamp"].dt.strftime("%Y-%m-%d"))[label].agg(["size", "sum"])
    first = split_of(settings, as_of).train_first.isoformat()
    return WrittenRows(
        manifest=lake.write(TRAINING_SET, as_of, to_table(rows), validated=enough),
        rows={fold: len(labels) for fold, labels in folds.items()},
        positives=positives,
        left_out=tuple(broken_days(case, lake, first, shift(as_of, -1))),
        by_day=tuple((str(day), int(n), int(hits)) for day, (n, hits) in per_day.tail(14).iterrows()),
        enough=enough,
    )


def training_rows(
    case: UseCase, lake: Lake, settings: Settings, as_of: str, features: tuple[str, ...]
) -> pd.DataFrame:
    """The rows of `eligible_rows.assemble` from the days of `training_days`."""
    split, days = split_of(settings, as_of), training_days(case, lake, settings, as_of)
    columns = ["event_timestamp", "created_timestamp", *event_columns(case), *features]
    vectors = read_validated(lake, FEATURE_VECTORS, days, list(dict.fromkeys(columns)))
    verdicts = read_validated(lake, VERDICTS, days)
    return assemble(case, to_frame(vectors), to_frame(verdicts), split, features)


def training_days(case: UseCase, lake: Lake, settings: Settings, as_of: str) -> list[str]:
    """The arrival days that are read as of `as_of`.

    A day whose feed did not pass validation has no features and no verdicts. It is left out, and stops no
    training. Raises `NothingToLearn` where no training day is left, and `MissingDays` for days that were
    never materialized.
    """
    split, last = split_of(settings, as_of), shift(as_of, -1)
    if not split.has_training_days:
        there = lake.between(case.event.dataset, settings.time.start.isoformat(), last)
        raise NothingToLearn(split, settings.time.start, there, settings.time.end)
    first = split.train_first.isoformat()
    broken = set(broken_days(case, lake, first, last))
    days = [day for day in day_range(first, last) if day not in broken]
    for dataset in (FEATURE_VECTORS, VERDICTS):
        if missing := sorted(set(days) - set(lake.between(dataset, first, last))):
            raise MissingDays(dataset, missing, as_of, first)
    return days


def broken_days(case: UseCase, lake: Lake, first: str, last: str) -> list[str]:
    """The days from `first` to `last` with events that did not pass validation."""
    dataset = case.event.dataset
    return sorted(
        set(lake.between(dataset, first, last)) - set(lake.between(dataset, first, last, validated=True))
    )


def training_set_digest(
    case: UseCase, lake: Lake, settings: Settings, as_of: str, features: tuple[str, ...]
) -> str:
    """The digest of the training set of the day, assembled from the present lake."""
    return digest_of([encode(to_table(training_rows(case, lake, settings, as_of, features)))[1]])
