"""The gain from retraining: the version of each as-of day on the days that it would have served."""

from dagster import AssetExecutionContext, AssetsDefinition, Config, MaterializeResult, MetadataValue
from pydantic import Field

from mlops_assets.core.keys import FEATURE_VECTORS, MODEL, TRAINED_MODEL, VERDICTS, WALK_FORWARD
from mlops_assets.core.use_case import UseCase
from mlops_assets.graph.checks import content, markdown_table
from mlops_assets.graph.headers import described
from mlops_assets.graph.pictures import lines
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.lake import LakeResource
from mlops_assets.resources.registry import ModelRegistry
from mlops_assets.steps.model.walk_report import Tables, walk_lines, walk_tables, write_page, write_walk


class WalkDays(Config):
    """As-of days: every `step` days from `first` to `last`.

    Each needs a version. `mlops backfill --group model` trains the missing versions.
    """

    first: str = Field(description="first as-of day, such as 2018-05-23")
    last: str = Field(description="last as-of day")
    step: int = Field(default=1, ge=1, description="days from one to the next, on which each version serves")


def walk_forward_asset(case: UseCase, settings: Settings) -> AssetsDefinition:
    """The asset `walk_forward`, one partition of the lake for each walk."""

    @described(
        case,
        WALK_FORWARD,
        "Versions of past as-of days on the days that each would have served: quality over time, and what"
        " each policy would have caught.",
        group=MODEL,
        kinds={"parquet"},
        deps=[TRAINED_MODEL, FEATURE_VECTORS, VERDICTS],
    )
    def walk_forward(
        context: AssetExecutionContext, config: WalkDays, lake: LakeResource, registry: ModelRegistry
    ) -> MaterializeResult:
        walk = write_walk(case, lake.open(), registry, settings, config.first, config.last, config.step)
        tables = walk_tables(case, walk.weeks, settings.model.precision_k)
        pictures = {
            title: lines(walk.weeks, "as_of", columns, label)
            for title, (columns, label) in walk_lines().items()
        }
        page = write_page(case, settings, walk, tables, pictures)
        return MaterializeResult(
            metadata={
                **content([walk.manifest]),
                **_told(tables),
                **{title: MetadataValue.md(f"![{title}]({image})") for title, image in pictures.items()},
                "report": MetadataValue.path(str(page)),
            }
        )

    return walk_forward


def _told(tables: Tables) -> dict[str, MetadataValue]:
    return {
        title: markdown_table([str(cell) for cell in cells[0]], cells[1:]) for title, cells in tables.items()
    }
