"""What the commands do: resolve the day or the version, run the job, and say what came of it as plain data."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_assets.cli.decisions import decision
from mlops_assets.cli.platform import (
    CommandError,
    check_databases,
    check_range,
    check_writable,
    configured,
    padded,
    prepare,
    registry_exists,
    untrained,
)
from mlops_assets.errors import listed
from mlops_assets.resources.environments import Settings
from mlops_assets.resources.home import bring_up
from mlops_assets.use_cases import USE_CASES

if TYPE_CHECKING:
    from mlops_assets.resources.promotion import Lifecycle
    from mlops_assets.resources.registry import ModelRegistry


def demo(home: Path, as_data: bool) -> dict[str, Any] | None:
    """Play the loop; it tells its story itself, and gives its summary where data is wanted."""
    from mlops_assets.cli.demo.story import run_demo

    summary = run_demo(home)
    return summary if as_data else None


def backfill(first: str, last: str, group: str | None) -> dict[str, Any]:
    """Materialize a range of arrival days in one run, then bring the online state up to it."""
    from dagster import AssetKey, DagsterInstance

    from mlops_assets.core.keys import FEATURES, INGEST, MONITORING, PREDICTION_LOG
    from mlops_assets.pipeline import BACKFILL, DAILY, ONLINE
    from mlops_assets.resources.lake import day_range

    settings = configured()
    check_range(settings, first, last)
    prepare(settings)
    pipeline = _pipeline()
    with DagsterInstance.get() as instance:
        if group == MONITORING:  # a report is of one day
            for day in day_range(first, last):
                _run(DAILY, instance, day=day, select=_assets_of(pipeline, MONITORING, DAILY))
        else:
            # What the service blocked has no verdict of its own: the log of a served day belongs to its
            # ingest.
            also = [AssetKey(PREDICTION_LOG)] if group == INGEST else []
            _run(
                BACKFILL,
                instance,
                days=(first, last),
                select=[*_assets_of(pipeline, group, BACKFILL), *also] if group else None,
            )
        if group in (None, FEATURES):
            _run(ONLINE, instance)
    rows = {
        name: _rows(settings, name, first, last)
        for name in ("transactions", "labels", "verdicts", "feature_vectors")
    }
    return {"from": first, "to": last, "groups": [group] if group else [INGEST, FEATURES], "rows": rows}


def reproduce(version: str, record: Path | None) -> dict[str, Any]:
    """Make the version again from its record, that of the registry or a file; another outcome is a result
    too, told with what differs.
    """
    from feature_repo.lake.datasets import Lake
    from mlops_assets.cli.reproduction.rebuild_version import reproduce as rebuild
    from mlops_assets.resources.provenance import ROOT, Record

    settings = configured()
    if record is not None:
        made_from = Record.from_json(_text(record), str(record))
    elif registry_exists(settings):  # asking would make one
        registry = _registry(settings)
        made_from = registry.record(registry.version(version))
    else:
        raise CommandError(
            f"there is no version {version}: {untrained(settings)}; --record takes what another home recorded"
        )
    base = settings.base if settings.config_file else ROOT / made_from.config_base
    made = rebuild(
        made_from, Lake(settings.lake_root), base, ROOT, lambda line: print(line, file=sys.stderr, flush=True)
    )
    return {
        "version": version,
        "identical": made.identical,
        "recorded": dict(made.recorded),
        "rebuilt": dict(made.rebuilt),
        "differs": list(made.differs),
        "inputs": {"from the lake": made.from_lake, "from the source": made.from_source},
    }


def rebuild_online() -> dict[str, Any]:
    """One run of the online_store asset."""
    from dagster import DagsterInstance

    from feature_repo.lake.datasets import Lake
    from mlops_assets.core.keys import ONLINE_STORE, TRANSACTIONS
    from mlops_assets.pipeline import ONLINE

    settings = configured()
    prepare(settings)
    if not Lake(settings.lake_root).partitions(TRANSACTIONS):
        raise CommandError(
            f"there is nothing to rebuild from: no transactions in {settings.lake_root}; `mlops backfill`"
            " brings them"
        )
    with DagsterInstance.get() as instance:
        result = _run(ONLINE, instance)
        (made,) = result.asset_materializations_for_node(ONLINE_STORE)
    return {name.removeprefix("dagster/"): value.value for name, value in made.metadata.items()}


def score(first: str, last: str, out: Path, version: str | None, as_of: str | None) -> dict[str, Any]:
    """Score the transactions that arrived in the range; the file appears whole, or not at all."""
    import pyarrow.parquet as pq

    from feature_repo.lake.datasets import Lake
    from mlops_assets.core.keys import TRAINED_MODEL
    from mlops_assets.steps.past_scores import score_days
    from mlops_assets.steps.version_training import trained_version

    settings = configured()
    check_range(settings, first, last)
    if not out.absolute().parent.is_dir():
        raise CommandError(f"{out}: there is no folder {out.absolute().parent.name!r} to write it to")
    if out.is_dir():
        raise CommandError(f"{out} is a folder; --out takes the file to write")
    registry, lake = _registry(settings), Lake(settings.lake_root)
    if not registry_exists(settings):  # asking would make one
        raise CommandError(
            f"there is no version {f'as of {as_of}' if as_of else version or 'yet'}: {untrained(settings)}"
        )
    if as_of and lake.manifest(TRAINED_MODEL, as_of) is None:
        raise CommandError(
            f"{TRAINED_MODEL}: nothing materialized for {as_of}; `mlops train --as-of {as_of}` trains that"
            " version"
        )
    number = trained_version(lake, as_of) if as_of else version
    chosen = registry.version(number) if number else registry.champion()
    if chosen is None:
        raise CommandError("there is no champion yet; name a version with --version or --as-of")
    table = score_days(USE_CASES[settings.use_case], lake, registry.release(chosen), first, last)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        pq.write_table(table, temporary)
        os.replace(temporary, out)
    except OSError as error:
        raise CommandError(f"{out}: cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)
    return {"out": str(out), "rows": table.num_rows, "version": chosen.version, "from": first, "to": last}


def compare(one: str, other: str, first: str, last: str, as_data: bool) -> dict[str, Any] | None:
    """Two versions on the same past days: quality, the difference with its interval, and what each policy
    would have caught.
    """
    from feature_repo.lake.datasets import Lake
    from mlops_assets.steps.past_scores import compare_days

    settings = configured()
    check_range(settings, first, last)
    if one == other:
        raise CommandError(f"{one} and {other} are the same version")
    if not registry_exists(settings):  # asking would make one
        raise CommandError(f"there is no version {one}: {untrained(settings)}")
    registry = _registry(settings)
    case = USE_CASES[settings.use_case]
    found = compare_days(
        case,
        Lake(settings.lake_root),
        settings,
        registry,
        registry.version(one),
        registry.version(other),
        first,
        last,
    )
    outcome = {"from": first, "to": last, **found.to_dict(case)}
    if not as_data:
        print(_side_by_side(outcome), end="")
    return outcome if as_data else None


def serve(options: argparse.Namespace) -> None:
    """The service as a process of its own: it takes this one's place."""
    settings = configured()
    bring_up(settings.home)
    if not Path(settings.tracking_uri.removeprefix("sqlite:///")).exists():
        print(
            f"mlops: {untrained(settings)}. The service answers 503 until a version is promoted",
            file=sys.stderr,
            flush=True,
        )
    words = [
        "--home",
        str(settings.home),
        "--name",
        settings.use_case,
        "--host",
        options.host,
        "--port",
        str(options.port),
    ]
    words += ["--workers", str(options.workers), "--clock", options.clock, "--lake", settings.lake_root]
    words += ["--far-days", str(settings.serving.far_days), "--when-far", settings.serving.when_far]
    words += ["--now", options.now] if options.now else []
    sys.stdout.flush()
    signal.pthread_sigmask(
        signal.SIG_BLOCK, {signal.SIGINT}
    )  # Ctrl-C while the service's Python begins waits until it can be answered
    os.execv(sys.executable, [sys.executable, "-m", "serving", *words])


def dev(port: int, mlflow_port: int) -> None:
    """Dagster and MLflow's UI on this platform, until they are stopped."""
    from mlops_assets.cli.side_processes import check_ports, run_dev

    settings = configured()
    check_ports(port, mlflow_port)
    prepare(settings)
    run_dev(settings, port, mlflow_port)


def status() -> dict[str, Any]:
    """What there is, read from the lake, the registry and the history."""
    from feature_repo.lake.datasets import Lake
    from mlops_assets.core.keys import FEATURE_VECTORS, PREDICTION_LOG, TRANSACTIONS, VERDICTS

    settings = configured()
    lake = Lake(settings.lake_root)
    datasets = {}
    for name in (TRANSACTIONS, VERDICTS, FEATURE_VECTORS, PREDICTION_LOG):
        days = lake.partitions(name)
        datasets[name] = {
            "days": len(days),
            "first": days[0] if days else None,
            "last": days[-1] if days else None,
        }
    champion = _registry(settings).champion() if registry_exists(settings) else None
    lifecycle = _lifecycle(settings)
    decisions = lifecycle.history.entries()
    if registry_exists(settings):
        lifecycle.unconfirmed()  # where the end of the history is missing, an error
    return {
        "home": str(settings.home),
        "config": str(settings.config_file) if settings.config_file else "defaults",
        "datasets": datasets,
        "champion": {"version": champion.version, "as_of": champion.as_of} if champion else None,
        "last_decision": decision(decisions[-1]) if decisions else None,
    }


def doctor(as_data: bool) -> dict[str, Any] | None:
    """Each check with its outcome, and the feeds.

    The first check that fails is an error that says what to do; of the feeds, all that is wrong is.
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
    for name in (
        "dagster",
        "dagster-mlflow",
        "mlflow",
        "feast",
        "lightgbm",
        "pandera",
        "evidently",
        "fastapi",
        "duckdb",
    ):
        findings[name] = importlib.metadata.version(name)
    check_writable(settings.home)
    findings |= {"home": str(settings.home), "databases": check_databases(settings.home)}
    findings["graph"] = f"{len(list(_pipeline().resolve_all_asset_specs()))} assets"
    loaded = subprocess.run(
        [sys.executable, "-c", "import lightgbm"], capture_output=True, text=True, check=False
    )
    if loaded.returncode:
        raise CommandError(f"LightGBM does not load: {loaded.stderr.strip().splitlines()[-1]}")
    findings["lightgbm_loads"] = True
    looks = look_at_feeds(USE_CASES[settings.use_case], settings, datetime.now(UTC).date())
    if not as_data:
        print(f"{readable(findings)}\n{shown(looks)}", end="", flush=True)
    if problems := [problem for look in looks for problem in look.problems]:
        raise CommandError(listed("the feeds", problems) if problems[1:] else problems[0])
    return findings | {"feeds": [asdict(look) for look in looks]} if as_data else None


def readable(outcome: Mapping[str, Any], indent: str = "") -> str:
    """The outcome for a person: one line a value."""
    lines = []
    for name, value in outcome.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{name}:", readable(value, indent + "  ")]
        elif isinstance(value, list) and value:
            lines += [f"{indent}{name}:", *(f"{indent}  - {item}" for item in value)]
        else:
            lines.append(f"{indent}{name}: {'none' if value in (None, []) else value}")
    return "\n".join(lines)


def _side_by_side(compared: Mapping[str, Any]) -> str:
    from mlops_assets.steps.walk_report import shown

    sides, gap = dict(compared["versions"]), compared["difference"]
    for number, side in sides.items():
        amounts = {
            f"{policy} {name}": value
            for policy, caught in side["policies"].items()
            for name, value in caught.items()
        }
        sides[number] = {name: value for name, value in (side | amounts).items() if name != "policies"}
    one, other = sides
    lines = [
        [name.replace("_", " "), shown(value), shown(sides[other][name])]
        for name, value in sides[one].items()
    ]
    rows = {name: value for name, value in compared.items() if name not in ("versions", "difference")}
    resampled = f"{gap[gap['resampled']]:,} {gap['resampled']}"
    interval = (
        f"{shown(gap['low'])} to {shown(gap['high'])} at {gap['confidence']:.0%} confidence, over resamples"
        f" of {resampled}"
    )
    return (
        f"{readable(rows)}\n{padded([['measure', f'version {one}', f'version {other}'], *lines])}"
        f"average precision, {one} minus {other}: {shown(gap['average_precision'])} ({interval})\n"
    )


def _pipeline() -> Any:
    """Load the definitions, so that what is wrong with the configuration is told before anything starts."""
    from mlops_assets.definitions import defs

    return defs


def _run(job: str, instance: Any, **options: Any) -> Any:
    from mlops_assets.cli.instance import run_job

    return run_job(job, instance, **options)


def _assets_of(pipeline: Any, group: str, job: str) -> list[Any]:
    keys = pipeline.resolve_job_def(job).asset_layer.executable_asset_keys
    return [
        spec.key
        for spec in pipeline.resolve_all_asset_specs()
        if spec.group_name == group and spec.key in keys
    ]


def _registry(settings: Settings) -> ModelRegistry:
    from mlops_assets.resources.registry import registry_of

    return registry_of(settings)


def _lifecycle(settings: Settings) -> Lifecycle:
    from mlops_assets.resources.promotion import lifecycle_of

    return lifecycle_of(settings)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{file}: cannot be read ({error})") from error


def _rows(settings: Settings, dataset: str, first: str, last: str) -> int:
    from feature_repo.lake.datasets import Lake

    lake = Lake(settings.lake_root)
    return sum(m.rows for m in lake.manifests(dataset, lake.between(dataset, first, last)))
