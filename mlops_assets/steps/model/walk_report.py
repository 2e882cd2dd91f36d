"""The report of a walk-forward: each version on the days that it would have served, as tables and a page."""

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from feature_repo.lake.datasets import Lake
from feature_repo.lake.files import write_whole
from feature_repo.lake.manifests import Manifest
from mlops_assets.core.judging.costs import AppliedCosts
from mlops_assets.core.judging.past_quality import CAPACITY, OWN
from mlops_assets.core.judging.walk_weeks import (
    UNCHANGED,
    Week,
    means,
    steps,
    table,
    week,
)
from mlops_assets.core.keys import FEATURE_VECTORS, TRAINED_MODEL, WALK_FORWARD
from mlops_assets.core.use_case import UseCase
from mlops_assets.core.words import Words, as_column
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import shift, to_table
from mlops_assets.resources.registry import ModelRegistry
from mlops_assets.steps.model.past_days import judge_of, past_days
from mlops_assets.steps.model.version_training import trained_version

Cells = Sequence[Sequence[object]]
Tables = Mapping[str, Cells]  # by title; the first row of each is its header

POLICIES = {OWN: "own thresholds", CAPACITY: "at capacity", UNCHANGED: "never retrained"}


@dataclass(frozen=True)
class WalkReport:
    """A walk-forward in the lake: its weeks from `walk_weeks.table`, and its title."""

    manifest: Manifest
    weeks: pd.DataFrame
    title: str


def write_walk(
    case: UseCase, lake: Lake, registry: ModelRegistry, settings: Settings, first: str, last: str, step: int
) -> WalkReport:
    """Measure the versions of a walk-forward, and write a row for each week.

    Raises `BadWalk` for impossible days, and `MissingPartitions` for days without a version.
    """
    as_of = steps(first, last, step)
    weeks = table(case, walked(case, lake, settings, registry, as_of, step))
    manifest = lake.write(WALK_FORWARD, walk_partition(first, last, step), to_table(weeks), validated=True)
    return WalkReport(manifest, weeks, f"Walk-forward as of {as_of[0]} to {as_of[-1]}, every {step} days")


def walk_partition(first: str, last: str, step: int) -> str:
    """The partition of the report. Its name has the days, so that each walk-forward has its own."""
    return f"{first}_to_{last}_step_{step}"


def walked(
    case: UseCase,
    lake: Lake,
    settings: Settings,
    registry: ModelRegistry,
    as_of_days: Sequence[str],
    step: int,
) -> list[Week]:
    """Measure the version of each as-of day on the events of the `step` arrival days from that day on.

    Days that the lake does not have are left out.
    """
    lake.manifests(TRAINED_MODEL, as_of_days)  # Raises an error with all missing days.
    past, weeks, first = past_days(case, lake, settings, as_of_days[0]), [], None
    costs, k = AppliedCosts.of(case, settings.costs), settings.model.precision_k
    for as_of in as_of_days:
        version = trained_version(lake, as_of)
        own = judge_of(registry.release(registry.version(version)))
        first = first or own
        days = lake.between(FEATURE_VECTORS, as_of, shift(as_of, step - 1), validated=True)
        rows = past.events(days, [*own.release.features, *first.release.features])
        scored = own.score(rows)
        unchanged = scored if own is first else first.score(rows)
        weeks.append(week(case, as_of, version, days, rows, scored, unchanged, costs, k))
    return weeks


def walk_tables(case: UseCase, weeks: pd.DataFrame, k: int) -> Tables:
    """The tables of the report, from a frame of `walk_weeks.table`.

    The last row of a table by as-of day has the means.
    """
    words, average, stops = Words.of(case), means(weeks), case.decisions.stops
    quality = {
        words.events: "rows",
        words.positives: as_column(words.positives),
        "unknown": "unknown",
        "average precision": "average_precision",
        f"average precision, {POLICIES[UNCHANGED]}": f"{UNCHANGED}.average_precision",
        "ROC AUC": "roc_auc",
        f"{words.inspected} precision@{k}": words.precision_at_k,
        "calibration error": "calibration_error",
    }
    positive = words.of_positives()
    worth = {f"{words.positive} {words.worth}": f"{OWN}.{positive}"}
    worth |= {f"share caught, {name}": f"{policy}.caught_share" for policy, name in POLICIES.items()}
    worth |= {f"cost, {name}": f"{policy}.cost" for policy, name in POLICIES.items()}
    stopped = {"blocked": "blocked", "insulted": "insulted"} if stops else {}
    measures = {
        "caught": words.of_positives("caught"),
        "missed": words.of_positives("missed"),
        "share caught": "caught_share",
        "reviews": "reviews",
        **stopped,
        "cost": "cost",
    }
    return {
        "quality": _by_day(weeks, average, {name: one for name, one in quality.items() if one in weeks}),
        words.worth: _by_day(weeks, average, worth),
        "policies, means": [
            ("policy", *measures),
            *(
                (title, *(shown(average[f"{policy}.{name}"]) for name in measures.values()))
                for policy, title in POLICIES.items()
            ),
        ],
    }


def walk_lines() -> dict[str, tuple[dict[str, str], str]]:
    """The pictures of a walk-forward by title: columns by their words in the legend, and the axis label."""
    quality = {"retrained": "average_precision", POLICIES[UNCHANGED]: f"{UNCHANGED}.average_precision"}
    cost = {name: f"{policy}.cost" for policy, name in POLICIES.items()}
    return {
        "quality over time": (quality, "average precision"),
        "cost over time": (cost, "cost of the days served"),
    }


def write_page(
    case: UseCase, settings: Settings, walk: WalkReport, tables: Tables, pictures: Mapping[str, str]
) -> Path:
    """Write the report as one HTML page with its pictures inside. Returns its path."""
    title = walk.title
    head = f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title>{STYLE}"
    parts = [f"{head}<h1>{html.escape(title)}</h1><p>{html.escape(_note(case))}</p>"]
    parts += [
        f'<h2>{html.escape(name)}</h2><img src="{image}" alt="{html.escape(name)}">'
        for name, image in pictures.items()
    ]
    for name, (header, *lines) in tables.items():
        body = "".join(f"<tr>{_row(line, 'td')}</tr>" for line in lines)
        parts.append(f"<h2>{html.escape(name)}</h2><table><tr>{_row(header, 'th')}</tr>{body}</table>")
    place = settings.home / "reports" / WALK_FORWARD / f"{walk.manifest.partition}.html"
    write_whole(place, "\n".join(parts).encode())
    return place


def shown(value: Any) -> str:
    """A number in words."""
    if isinstance(value, str):
        return value
    if value is None or pd.isna(value):
        return "undefined"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"


def _by_day(weeks: pd.DataFrame, average: Mapping[str, float | None], columns: Mapping[str, str]) -> Cells:
    header = ("as of", "version", *columns)
    lines = [
        (row["as_of"], row["version"], *(shown(row[name]) for name in columns.values()))
        for row in weeks.to_dict("records")
    ]
    return [header, *lines, ("mean", "", *(shown(average[name]) for name in columns.values()))]


def _row(cells: Iterable[object], tag: str) -> str:
    return "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells)


STYLE = (
    "<style>body{font:14px sans-serif;margin:2em}td,th{padding:.2em .8em;text-align:right;border-bottom:1px"
    " solid #ddd}</style>"
)


def _note(case: UseCase) -> str:
    words, withheld = Words.of(case), case.labels.withheld_by
    unknown = ", or were blocked and never investigated," if withheld else ", or have no label,"
    return (
        f"Each version is measured on the {words.events} that arrived from its as-of day to the day before"
        f" the next as-of day. It was trained on none of them. Quality covers {words.events} with a verdict."
        f" {words.events.capitalize()} that are not mature{unknown} are unknown. {words.worth.capitalize()}"
        " covers mature days. Own thresholds: the decisions of the version. At capacity: reviews of the"
        " highest scores of each day, as many as the team can do. Never retrained: the first version, kept."
    )
