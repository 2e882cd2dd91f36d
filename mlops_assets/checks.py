"""How assets report: the specs of their checks, results that name the offenders, and metadata that a person can use in the UI."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dagster import AssetCheckResult, AssetCheckSeverity, AssetCheckSpec, MetadataValue

from feature_repo.engine.lake import Manifest, digest_of

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


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> MetadataValue:
    """A small table for the UI."""
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}", *(f"| {' | '.join(_cell(c) for c in row)} |" for row in rows)]
    return MetadataValue.md("\n".join(lines))


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.2f}" if abs(value) >= 100 else f"{value:.4g}"
