"""`mlops rebuild-online`: make the online state again, while the service goes on."""

from __future__ import annotations

import argparse
from typing import Any

from mlops_assets.cli.platform import CommandError, case_of, configured, prepare


def arguments(parser: argparse.ArgumentParser) -> None:
    """The command takes no arguments."""


def run(options: argparse.Namespace) -> dict[str, Any]:
    """The report of one run of the `online_store` asset."""
    from dagster import DagsterInstance

    from feature_repo.lake.datasets import Lake
    from mlops_assets.cli.instance import run_job
    from mlops_assets.core.keys import ONLINE_STORE
    from mlops_assets.pipeline import ONLINE

    settings = configured()
    events = case_of(settings).event.dataset
    prepare(settings)
    if not Lake(settings.lake_root).partitions(events):
        raise CommandError(
            f"there is nothing to rebuild from: no {events} in {settings.lake_root}; `mlops backfill`"
            " brings them"
        )
    with DagsterInstance.get() as instance:
        result = run_job(ONLINE, instance)
        (made,) = result.asset_materializations_for_node(ONLINE_STORE)
    return {name.removeprefix("dagster/"): value.value for name, value in made.metadata.items()}
