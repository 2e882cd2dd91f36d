"""`mlops reproduce`: make a version again from its record, and compare."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from mlops_assets.cli.arguments import Once, version
from mlops_assets.cli.platform import CommandError, configured, registry_exists, untrained


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("version", type=version, metavar="VERSION", help="a registered version")
    parser.add_argument(
        "--record",
        type=Path,
        action=Once,
        metavar="FILE",
        help="the provenance.json of a version that another home has",
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """The recorded digests, the digests of the rebuilt version, and the differences between them.

    A difference is no failure.
    """
    from feature_repo.lake.datasets import Lake
    from mlops_assets.cli.reproduction.rebuild_version import reproduce
    from mlops_assets.resources.provenance import ROOT, Record
    from mlops_assets.resources.registry import registry_of

    settings = configured()
    if options.record is not None:
        record = Record.from_json(_text(options.record), str(options.record))
    elif registry_exists(settings):  # MLflow would make a registry when it is asked
        registry = registry_of(settings)
        record = registry.record(registry.version(options.version))
    else:
        why = f"{untrained(settings)}; --record takes what another home recorded"
        raise CommandError(f"there is no version {options.version}: {why}")
    base = settings.base if settings.config_file else ROOT / record.config_base
    made = reproduce(record, Lake(settings.lake_root), base, ROOT, _say)
    return {
        "version": options.version,
        "identical": made.identical,
        "recorded": dict(made.recorded),
        "rebuilt": dict(made.rebuilt),
        "differs": list(made.differs),
        "inputs": {"from the lake": made.from_lake, "from the source": made.from_source},
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{file}: cannot be read ({error})") from error
