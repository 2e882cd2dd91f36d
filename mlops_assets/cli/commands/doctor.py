"""`mlops doctor`: check everything that the platform needs, and look at the feeds."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from feature_repo.errors import FeatureError
from mlops_assets.cli.output import readable
from mlops_assets.cli.platform import (
    CommandError,
    case_of,
    check_databases,
    check_writable,
    configured,
    pipeline,
)
from mlops_assets.core.use_case import UseCase
from mlops_assets.errors import listed
from mlops_assets.resources.environments import Settings
from serving.contract.subject import BadSubject

LIBRARIES = (
    "dagster",
    "dagster-mlflow",
    "mlflow",
    "feast",
    "lightgbm",
    "pandera",
    "evidently",
    "fastapi",
    "duckdb",
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """The command takes no arguments."""


def run(options: argparse.Namespace) -> dict[str, Any] | None:
    """Print each check with its outcome, or return the outcomes as data.

    The first check that fails is a `CommandError` that says what to do. One `CommandError` lists every
    problem of the feeds.
    """
    import ctypes.util
    import importlib.metadata

    from mlops_assets.cli.feed_preview import look_at_feeds, shown

    settings = configured()
    findings: dict[str, Any] = {
        "python": sys.version.split()[0],
        "config": str(settings.config_file or "defaults"),
    }
    if ctypes.util.find_library("gomp") is None:
        raise CommandError(
            "libgomp.so.1 is missing, which LightGBM needs: install the system package libgomp1"
        )
    findings |= {name: importlib.metadata.version(name) for name in LIBRARIES}
    check_writable(settings.home)
    findings |= {"home": str(settings.home), "databases": check_databases(settings.home)}
    findings["graph"] = f"{len(list(pipeline().resolve_all_asset_specs()))} assets"
    findings["features"] = declared_features(settings, case_of(settings))
    findings["lightgbm_loads"] = _lightgbm_loads()
    looks = look_at_feeds(case_of(settings), settings, datetime.now(UTC).date())
    if not options.json:
        print(f"{readable(findings)}\n{shown(looks)}", end="", flush=True)
    if problems := [problem for look in looks for problem in look.problems]:
        raise CommandError(listed("the feeds", problems) if problems[1:] else problems[0])
    return findings | {"feeds": [asdict(look) for look in looks]} if options.json else None


def declared_features(settings: Settings, case: UseCase) -> str:
    """How many features the use case's service has; `CommandError` where it names what is not declared."""
    from mlops_assets.resources.feature_store import feature_store_of

    try:
        plan = feature_store_of(settings, case).declared(case.feature_service)
    except (BadSubject, FeatureError) as error:
        raise CommandError(f"use_case {settings.case_named!r}: {error}") from error
    return f"{len(plan.features)} of {plan.service}"


def _lightgbm_loads() -> bool:
    """Import LightGBM in a process of its own. `CommandError` where that fails."""
    loaded = subprocess.run(
        [sys.executable, "-c", "import lightgbm"], capture_output=True, text=True, check=False
    )
    if loaded.returncode:
        raise CommandError(f"LightGBM does not load: {loaded.stderr.strip().splitlines()[-1]}")
    return True
