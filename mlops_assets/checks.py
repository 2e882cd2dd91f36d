"""How assets report: checks, results that name the offenders, decisions, and metadata for the UI."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dagster import AssetCheckResult, AssetCheckSeverity, AssetCheckSpec, AssetKey, AssetObservation, MetadataValue

from feature_repo.engine.lake import Manifest, digest_of
from mlops_assets.core.lifecycle import kind
from mlops_assets.keys import PROMOTED_VERSION

Metadata = Mapping[str, Any]


def blocking(asset: str, name: str, description: str) -> AssetCheckSpec:
    """A check on data: where it fails, nothing downstream runs."""
    return AssetCheckSpec(name, asset=asset, description=description, blocking=True)


def warning(asset: str, name: str, description: str) -> AssetCheckSpec:
    """A check that tells and does not stop: drift, money, the verdict of the gate."""
    return AssetCheckSpec(name, asset=asset, description=description)


def result(spec: AssetCheckSpec, passed: bool, metadata: Metadata | None = None) -> AssetCheckResult:
    """The outcome of a check; a check that blocks fails as ERROR, any other as WARN."""
    return AssetCheckResult(
        passed=bool(passed),
        asset_key=spec.asset_key,
        check_name=spec.name,
        severity=AssetCheckSeverity.ERROR if spec.blocking else AssetCheckSeverity.WARN,
        metadata=dict(metadata or {}),
    )


def content(manifests: Iterable[Manifest]) -> dict[str, Any]:
    """Metadata of what was written: rows, days, bytes and one digest over all of it."""
    written = sorted(manifests, key=lambda m: m.partition)
    return {
        "dagster/row_count": sum(m.rows for m in written),
        "days": f"{written[0].partition} to {written[-1].partition} ({len(written)})" if len(written) > 1 else written[0].partition,
        "bytes": sum(f.bytes for m in written for f in m.files),
        "digest": digest_of(f for m in written for f in m.files),
    }


def observed_decision(row: Metadata, line: int, **more: int) -> AssetObservation:
    """A line of the history as the UI shows it on `promoted_version`, at the as-of day of its version.

    A promotion by the gate materializes that asset. Other decisions leave it as it is.
    """
    what = kind(row).replace("_", " ") + (f" to {row['to']}" if "to" in row else "")
    listed = {name: "\n".join(f"- {text}" for text in row[name]) for name in ("reasons", "overruled") if row.get(name)}
    return AssetObservation(
        AssetKey(PROMOTED_VERSION),
        partition=row["as_of"],
        description=f"version {row['version']} was {what} by {row['by']}",
        metadata={
            "kind": kind(row),
            "version": row["version"],
            "champion before": row["champion"] or "none",
            **({"to": row["to"]} if "to" in row else {}),
            "by": row["by"],
            **{name: MetadataValue.md(text) for name, text in listed.items()},
            "line of the history": line,
            **more,
        },
    )


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> MetadataValue:
    """A small table for the UI."""
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}", *(f"| {' | '.join(_cell(c) for c in row)} |" for row in rows)]
    return MetadataValue.md("\n".join(lines))


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.2f}" if abs(value) >= 100 else f"{value:.4g}"
