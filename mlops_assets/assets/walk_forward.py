"""What retraining would have brought: the version of each as-of day on the days that it would have served,
and the first one kept for all of them.
"""

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from dagster import AssetExecutionContext, AssetsDefinition, Config, MaterializeResult, MetadataValue, asset
from pydantic import Field

from feature_repo.lake.datasets import Lake
from mlops_assets.assets.trained_model import trained_version
from mlops_assets.core.judging.walk_weeks import CAPACITY, OWN, UNCHANGED, Week, means, steps, table, week
from mlops_assets.core.keys import FEATURE_VECTORS, MODEL, TRAINED_MODEL, VERDICTS, WALK_FORWARD
from mlops_assets.core.use_case import UseCase
from mlops_assets.graph.checks import content, markdown_table
from mlops_assets.graph.pictures import data_uri, png
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import LakeResource, shift, to_table
from mlops_assets.resources.registry import ModelRegistry
from mlops_assets.steps.past_days import judge_of, past_days

Cells = Sequence[Sequence[object]]
Tables = Mapping[str, Cells]  # by their titles, each with its header first

POLICIES = {OWN: "own thresholds", CAPACITY: "at capacity", UNCHANGED: "never retrained"}


class Walk(Config):
    """As-of days: every `step` days from `first` on, `last` at the latest.

    A version of each has to be there, by `mlops backfill --group model`.
    """

    first: str = Field(description="first as-of day, such as 2018-05-23")
    last: str = Field(description="last as-of day")
    step: int = Field(default=1, ge=1, description="days from one to the next, on which each version serves")


def walk_forward_asset(case: UseCase, settings: Settings) -> AssetsDefinition:
    @asset(
        name=WALK_FORWARD,
        description=(
            "Versions of past as-of days on the days that each would have served: quality over time, and what"
            " each policy would have caught."
        ),
        group_name=MODEL,
        owners=[case.owner],
        kinds={"parquet"},
        deps=[TRAINED_MODEL, FEATURE_VECTORS, VERDICTS],
    )
    def walk_forward(
        context: AssetExecutionContext, config: Walk, lake: LakeResource, registry: ModelRegistry
    ) -> MaterializeResult:
        opened, name = lake.open(), walk_partition(config.first, config.last, config.step)
        as_of = steps(config.first, config.last, config.step)
        weeks = table(walked(opened, settings, registry, as_of, config.step))
        written = opened.write(WALK_FORWARD, name, to_table(weeks), validated=True)
        tables, pictures = walk_tables(weeks, settings.model.card_k), _pictures(weeks)
        page = settings.home / "reports" / WALK_FORWARD / f"{name}.html"
        _write_page(
            page, f"Walk-forward as of {as_of[0]} to {as_of[-1]}, every {config.step} days", tables, pictures
        )
        return MaterializeResult(
            metadata={
                **content([written]),
                **{
                    title: markdown_table([str(cell) for cell in cells[0]], cells[1:])
                    for title, cells in tables.items()
                },
                **{title: MetadataValue.md(f"![{title}]({image})") for title, image in pictures.items()},
                "report": MetadataValue.path(str(page)),
            }
        )

    return walk_forward


def walk_partition(first: str, last: str, step: int) -> str:
    """The partition of the report, which names its days: walks over other days stand beside it."""
    return f"{first}_to_{last}_step_{step}"


def walked(
    lake: Lake, settings: Settings, registry: ModelRegistry, as_of_days: Sequence[str], step: int
) -> list[Week]:
    """Measure the version of each as-of day on what arrived in the `step` days from it on, as far as the lake
    has them.
    """
    lake.manifests(TRAINED_MODEL, as_of_days)  # the error names all the days that are missing
    past, weeks, first = past_days(lake, settings, as_of_days[0]), [], None
    for as_of in as_of_days:
        version = trained_version(lake, as_of)
        own = judge_of(registry.release(registry.version(version)))
        first = first or own
        days = lake.between(FEATURE_VECTORS, as_of, shift(as_of, step - 1), validated=True)
        rows = past.payments(days, [*own.release.features, *first.release.features])
        scored = own.score(rows)
        unchanged = scored if own is first else first.score(rows)
        weeks.append(
            week(as_of, version, days, rows, scored, unchanged, settings.costs, settings.model.card_k)
        )
    return weeks


def walk_tables(weeks: pd.DataFrame, k: int) -> Tables:
    """The report for people, of a frame as `backtest.table` makes it; the last line of a table by as-of day
    has the means.
    """
    quality = {
        "payments": "rows",
        "frauds": "frauds",
        "unknown": "unknown",
        "average precision": "average_precision",
        f"average precision, {POLICIES[UNCHANGED]}": f"{UNCHANGED}.average_precision",
        "ROC AUC": "roc_auc",
        f"card precision@{k}": "card_precision_at_k",
        "calibration error": "calibration_error",
    }
    money = {"fraud money": f"{OWN}.fraud_money"}
    money |= {f"share caught, {name}": f"{policy}.caught_share" for policy, name in POLICIES.items()}
    money |= {f"cost, {name}": f"{policy}.cost" for policy, name in POLICIES.items()}
    measures = {
        "caught": "caught_money", "missed": "missed_money", "share caught": "caught_share",
        "reviews": "reviews", "blocked": "blocked", "insulted": "insulted", "cost": "cost",
    }  # fmt: skip
    average = means(weeks)
    return {
        "quality": _by_day(weeks, average, quality),
        "money": _by_day(weeks, average, money),
        "policies, means": [
            ("policy", *measures),
            *(
                (title, *(shown(average[f"{policy}.{name}"]) for name in measures.values()))
                for policy, title in POLICIES.items()
            ),
        ],
    }


def _by_day(weeks: pd.DataFrame, average: Mapping[str, float | None], columns: Mapping[str, str]) -> Cells:
    header = ("as of", "version", *columns)
    lines = [
        (row["as_of"], row["version"], *(shown(row[name]) for name in columns.values()))
        for row in weeks.to_dict("records")
    ]
    return [header, *lines, ("mean", "", *(shown(average[name]) for name in columns.values()))]


def shown(value: Any) -> str:
    """A number for people."""
    if isinstance(value, str):
        return value
    if value is None or pd.isna(value):
        return "undefined"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"


def _pictures(weeks: pd.DataFrame) -> dict[str, str]:
    quality = {"retrained": "average_precision", POLICIES[UNCHANGED]: f"{UNCHANGED}.average_precision"}
    return {
        "quality over time": _lines(weeks, quality, "average precision"),
        "cost over time": _lines(
            weeks, {name: f"{policy}.cost" for policy, name in POLICIES.items()}, "cost of the days served"
        ),
    }


def _lines(weeks: pd.DataFrame, columns: Mapping[str, str], label: str) -> str:
    """One line a column over the as-of days, as a data URI."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), dpi=80, layout="constrained")
    axes = figure.subplots()
    for name, column in columns.items():
        axes.plot(weeks["as_of"], weeks[column], marker="o", label=name)
    axes.set(ylabel=label, ylim=(0, None))
    axes.tick_params(axis="x", rotation=45)
    axes.legend()
    return data_uri(png(figure))


def _write_page(place: Path, title: str, tables: Tables, pictures: Mapping[str, str]) -> None:
    parts = [
        "<!doctype html><meta"
        f" charset=utf-8><title>{html.escape(title)}</title>{STYLE}<h1>{html.escape(title)}</h1><p>{html.escape(NOTE)}</p>"
    ]
    parts += [
        f'<h2>{html.escape(name)}</h2><img src="{image}" alt="{html.escape(name)}">'
        for name, image in pictures.items()
    ]
    for name, (header, *lines) in tables.items():
        body = "".join(f"<tr>{_row(line, 'td')}</tr>" for line in lines)
        parts.append(f"<h2>{html.escape(name)}</h2><table><tr>{_row(header, 'th')}</tr>{body}</table>")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("\n".join(parts), encoding="utf-8")


def _row(cells: Iterable[object], tag: str) -> str:
    return "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells)


STYLE = (
    "<style>body{font:14px sans-serif;margin:2em}td,th{padding:.2em .8em;text-align:right;border-bottom:1px"
    " solid #ddd}</style>"
)
NOTE = (
    "Each version on the payments that arrived from its as-of day to the day before the next one, none of"
    " which it was trained on. Quality is that of payments with a verdict; what is not mature, or was blocked"
    " and never investigated, is unknown. Money is of mature days. Own thresholds: as the version decides. At"
    " capacity: the highest scores of each day, as many as can be reviewed. Never retrained: the first"
    " version, kept."
)
