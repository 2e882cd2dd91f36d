"""A version made again from its record, in a home of its own, and the comparison of both.

The code of the recorded commit makes the version, in processes of its own. That code and this package share
the record and the names of assets that `dagster asset materialize` takes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from feature_repo.lake.datasets import Lake
from mlops_assets.cli.reproduction.differences import differing_code, differing_days, outcome
from mlops_assets.cli.reproduction.recorded_code import CannotReproduce, checkout, interpreter
from mlops_assets.cli.reproduction.workshop import Workshop, plant, received, steps
from mlops_assets.core.keys import TRAINED_MODEL, TRAINING_SET
from mlops_assets.resources.provenance import Record

# Both assets and the assets that the recorded code has between them
MODEL_STEPS = f'key:"{TRAINING_SET}"+ and +key:"{TRAINED_MODEL}"'
# These digests have to be identical. Features are compared day by day.
MADE = ("training_set", "evaluation_fit", "model")


@dataclass(frozen=True)
class RebuiltVersion:
    """The digests of both versions. `differs` names the differences, from cause to effect.

    An input can differ although the outcome is identical. `from_lake` counts the partitions of raw data whose
    files the lake still had. `from_source` counts the partitions that were read from the source again.
    """

    recorded: Mapping[str, str | None]
    rebuilt: Mapping[str, str | None]
    differs: tuple[str, ...]
    from_lake: int
    from_source: int

    @property
    def identical(self) -> bool:
        """Whether training set and both fits have the recorded digests."""
        return all(self.rebuilt[name] == self.recorded[name] for name in MADE)


def reproduce(
    record: Record, lake: Lake, base: Path, root: Path, say: Callable[[str], None]
) -> RebuiltVersion:
    """Rebuild a version with the recorded code, from a worktree of the repository at `root`.

    Raw days come from `lake` where it has files with the recorded digests, else from the source of the
    recorded configuration. The relative paths of the configuration start at `base`. `say` gets a line for
    each step. Raises `CannotReproduce` where the rebuild cannot begin.
    """
    with (
        tempfile.TemporaryDirectory(prefix="mlops-reproduce-") as folder,
        checkout(record, root, Path(folder, "code"), say) as code,
    ):
        workshop = Workshop(
            interpreter(code, root, Path(folder, "venv"), say), code, Path(folder, "home"), record, base
        )
        raw, planted = received(record), plant(record, lake, workshop.lake)
        wanted, found = (
            sum(map(len, days)) for days in ([record.partitions[name] for name in raw], planted.values())
        )
        say(
            f"input: {found} of {wanted} partitions are in {lake.root} with the recorded digests; the source"
            " is asked for the others"
        )
        for step in steps(record, planted):
            say(f"{step.first} to {step.last}: {', '.join(step.assets)}")
            why = workshop.materialize(step.assets, "--partition-range", f"{step.first}...{step.last}")
            if why and any(
                workshop.lake.manifest(name, step.last) is None for name in raw if name in step.assets
            ):
                raise CannotReproduce(
                    f"what came in from {step.first} to {step.last} cannot be read again: {why}"
                )
            if why and step.sound:
                say(f"these days had passed their checks, and now do not: {why}")
        say(f"as of {record.as_of}: {TRAINING_SET} to {TRAINED_MODEL}")
        why = workshop.materialize((MODEL_STEPS,), "--partition", record.as_of)
        recorded, made = outcome(record.partitions, record.training_set, record.models), workshop.record()
        if made is not None:
            days, unvalidated = made.partitions, made.unvalidated
            rebuilt = outcome(days, made.training_set, made.models)
        else:
            days, unvalidated = workshop.inputs()
            manifest = workshop.lake.manifest(TRAINING_SET, record.as_of)
            rebuilt = outcome(days, manifest.digest if manifest else None, {})
        differs = [*differing_code(record, code, made), *differing_days(record, days, unvalidated)]
        not_made = f"not made ({why or 'that code records none'})"
        differs += [
            name if rebuilt[name] else f"{name}: {not_made}"
            for name in MADE
            if rebuilt[name] != recorded[name]
        ]
    return RebuiltVersion(recorded, rebuilt, tuple(differs), found, wanted - found)
