"""The reports of assets: checks, their results, decisions, and metadata for the UI.

An asset that makes a range of days in one run reports each day separately. Dagster's single-run backfills
would put the total of the run on every partition. They would also leave the planned evaluation of each
partition open ("Skipped" in the UI).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from dagster import (
    AssetCheckEvaluation,
    AssetCheckKey,
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetExecutionContext,
    AssetKey,
    AssetObservation,
    AssetRecordsFilter,
    MaterializeResult,
    MetadataValue,
    Output,
    PartitionsDefinition,
)
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData,
)

from feature_repo.lake.datasets import Manifest, digest_of
from mlops_assets.core.keys import DATA_DRIFT, PREDICTION_DRIFT, PROMOTED_VERSION
from mlops_assets.core.lifecycle.champions import kind
from mlops_assets.graph.partitions import NO_RUN, run_of

Metadata = Mapping[str, Any]
# A failure of one of these asks for a retraining.
DRIFT_CHECKS = (
    AssetCheckKey(AssetKey(DATA_DRIFT), "no_data_drift"),
    AssetCheckKey(AssetKey(PREDICTION_DRIFT), "no_prediction_drift"),
)
Reported = MaterializeResult[Any] | Output[None] | AssetCheckEvaluation


def blocking(
    asset: str, name: str, description: str, days: PartitionsDefinition[str] | None
) -> AssetCheckSpec:
    """A check on data. If it fails, nothing downstream runs.

    `days` is the partitions definition of its asset.
    """
    return AssetCheckSpec(name, asset=asset, description=description, blocking=True, partitions_def=days)


def warning(
    asset: str, name: str, description: str, days: PartitionsDefinition[str] | None
) -> AssetCheckSpec:
    """A check that only warns, such as drift, money, or the verdict of the gate.

    `days` is the partitions definition of its asset.
    """
    return AssetCheckSpec(name, asset=asset, description=description, partitions_def=days)


def result(spec: AssetCheckSpec, passed: bool, metadata: Metadata | None = None) -> AssetCheckResult:
    """The outcome of a check. A blocking check fails as ERROR, any other check as WARN."""
    return AssetCheckResult(
        passed=bool(passed),
        asset_key=spec.asset_key,
        check_name=spec.name,
        severity=AssetCheckSeverity.ERROR if spec.blocking else AssetCheckSeverity.WARN,
        metadata=dict(metadata or {}),
    )


def reported(
    context: AssetExecutionContext,
    asset: str,
    written: Iterable[Manifest],
    metadata: Mapping[str, Metadata] | None = None,
    results: Mapping[str, Sequence[AssetCheckResult]] | None = None,
) -> Iterator[Reported]:
    """The events that an asset yields for the days that it made, each on the partition of its day.

    `metadata` and the `results` of checks are by day. Every day needs a result of every check. Dagster shows
    a planned evaluation without a result as skipped.
    """
    made = sorted(written, key=lambda manifest: manifest.partition)
    about = {m.partition: {**content([m]), **(metadata or {}).get(m.partition, {})} for m in made}
    checked = {day: list((results or {}).get(day, ())) for day in about}
    everything = [one for each in checked.values() for one in each]
    called = run_of(context) == NO_RUN  # An asset that is called as a function has no partitions.
    if len(made) == 1 or called:
        yield MaterializeResult(
            asset_key=asset,
            metadata=about[made[0].partition] if len(made) == 1 else content(made),
            check_results=everything,
        )
    else:
        for day, values in about.items():
            context.add_asset_metadata(values, asset_key=asset, partition_key=day)
        yield MaterializeResult(
            asset_key=asset,
            metadata={"made in one run": f"{made[0].partition} to {made[-1].partition} ({len(made)} days)"},
        )
    if len(made) > 1 or called:  # In other cases Dagster derives outputs and evaluations from the results.
        for spec in context.assets_def.check_specs:
            if spec.asset_key == AssetKey(asset):
                yield Output(None, output_name=spec.get_python_identifier())
    if len(made) > 1 and not called and everything:
        yield from _evaluations(context, AssetKey(asset), checked)


def _evaluations(
    context: AssetExecutionContext, key: AssetKey, checked: Mapping[str, Sequence[AssetCheckResult]]
) -> Iterator[AssetCheckEvaluation]:
    """The results as records of their partitions.

    Dagster turns an `AssetCheckResult` of a range into one record without a partition.
    """
    just_made = AssetRecordsFilter(asset_key=key, asset_partitions=list(checked))
    targets: dict[str | None, AssetCheckEvaluationTargetMaterializationData] = {}
    for record in context.instance.fetch_materializations(just_made, limit=len(checked)).records:
        target = AssetCheckEvaluationTargetMaterializationData(
            storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp
        )
        targets.setdefault(record.partition_key, target)
    for day, each in checked.items():
        for one in each:
            yield AssetCheckEvaluation(
                asset_key=key,
                check_name=str(one.check_name),
                passed=one.passed,
                metadata=one.metadata,
                target_materialization_data=targets.get(day),
                severity=one.severity,
                blocking=one.severity == AssetCheckSeverity.ERROR,
                partition=day,
            )


def content(manifests: Iterable[Manifest]) -> dict[str, Any]:
    """Metadata of written days: rows, days, bytes, and one digest over all files."""
    written = sorted(manifests, key=lambda m: m.partition)
    return {
        "dagster/row_count": sum(m.rows for m in written),
        "days": f"{written[0].partition} to {written[-1].partition} ({len(written)})"
        if len(written) > 1
        else written[0].partition,
        "bytes": sum(f.bytes for m in written for f in m.files),
        "digest": digest_of(f for m in written for f in m.files),
    }


def observed_decision(row: Metadata, line: int, **more: int) -> AssetObservation:
    """A line of the history as an event of `promoted_version`, at the as-of day of its version.

    A promotion by the gate materializes this asset. Other decisions do not.
    """
    what = kind(row).replace("_", " ") + (f" to {row['to']}" if "to" in row else "")
    listed = {
        name: "\n".join(f"- {text}" for text in row[name])
        for name in ("reasons", "overruled")
        if row.get(name)
    }
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
    lines = [
        f"| {' | '.join(header)} |",
        f"|{'---|' * len(header)}",
        *(f"| {' | '.join(_cell(c) for c in row)} |" for row in rows),
    ]
    return MetadataValue.md("\n".join(lines))


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value).replace("|", "\\|")
    return f"{value:,.2f}" if abs(value) >= 100 else f"{value:.4g}"
