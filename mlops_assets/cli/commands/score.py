"""`mlops score`: score past days with one version into a file."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

from mlops_assets.cli.arguments import Once, add_days, day, version
from mlops_assets.cli.platform import (
    CommandError,
    case_of,
    check_range,
    configured,
    registry_exists,
    untrained,
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    add_days(parser, "arrival day")
    parser.add_argument("--out", type=Path, required=True, action=Once, metavar="FILE")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--version", type=version, action=Once, help="a registered version (the champion)")
    which.add_argument(
        "--as-of", type=day, action=Once, metavar="DAY", help="the version that was trained as of this day"
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Write the scores of the events that arrived in the range.

    The file appears as a whole or not at all.
    """
    import pyarrow.parquet as pq

    from feature_repo.lake.datasets import Lake
    from feature_repo.lake.files import write_whole
    from mlops_assets.resources.registry import registry_of
    from mlops_assets.steps.model.past_scores import score_days

    settings, out = configured(), options.out
    check_range(settings, options.first, options.last)
    if not out.absolute().parent.is_dir():
        raise CommandError(f"{out}: there is no folder {out.absolute().parent.name!r} to write it to")
    if out.is_dir():
        raise CommandError(f"{out} is a folder; --out takes the file to write")
    if not registry_exists(settings):  # MLflow would make a registry when it is asked
        named = f"as of {options.as_of}" if options.as_of else options.version or "yet"
        raise CommandError(f"there is no version {named}: {untrained(settings)}")
    lake, registry = Lake(settings.lake_root), registry_of(settings)
    number = _trained(lake, options.as_of) if options.as_of else options.version
    chosen = registry.version(number) if number else registry.champion()
    if chosen is None:
        raise CommandError("there is no champion yet; name a version with --version or --as-of")
    table = score_days(case_of(settings), lake, registry.release(chosen), options.first, options.last)
    content = io.BytesIO()
    pq.write_table(table, content)
    try:
        write_whole(out, content.getvalue())
    except OSError as error:
        raise CommandError(f"{out}: cannot be written ({error.strerror or error})") from error
    found = {"out": str(out), "rows": table.num_rows, "version": chosen.version}
    return {**found, "from": options.first, "to": options.last}


def _trained(lake: Any, as_of: str) -> str:
    """The version that was trained as of the day."""
    from mlops_assets.core.keys import TRAINED_MODEL
    from mlops_assets.steps.model.version_training import trained_version

    if lake.manifest(TRAINED_MODEL, as_of) is None:
        remedy = f"`mlops train --as-of {as_of}` trains that version"
        raise CommandError(f"{TRAINED_MODEL}: nothing materialized for {as_of}; {remedy}")
    return trained_version(lake, as_of)
