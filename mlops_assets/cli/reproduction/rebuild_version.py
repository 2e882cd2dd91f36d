"""A version made again from what was recorded of it, in a home of its own, and the digests of both compared.

The code of the recorded commit does it, in processes of its own. What that code and this package agree on is
the record, and the names of assets that `dagster asset materialize` takes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from feature_repo.lake.datasets import Lake
from mlops_assets.cli.reproduction.differences import differing_code, differing_days, outcome
from mlops_assets.cli.reproduction.recorded_code import CannotReproduce, checkout, interpreter
from mlops_assets.cli.reproduction.workshop import RECEIVED, Workshop, plant, steps
from mlops_assets.core.keys import TRAINED_MODEL, TRAINING_SET
from mlops_assets.resources.provenance import Record

# and what the recorded code has between the two
MODEL_STEPS = f'key:"{TRAINING_SET}"+ and +key:"{TRAINED_MODEL}"'
MADE = (
    "training_set",
    "evaluation_fit",
    "model",
)  # what has to be identical; the features behind them are compared day by day


@dataclass(frozen=True)
class Rebuild:
    """`differs` names what was not the same, from cause to effect; it can name an input although the outcome
    is identical.
    """

    recorded: Mapping[str, str | None]
    rebuilt: Mapping[str, str | None]
    differs: tuple[str, ...]
    from_lake: int  # partitions of what came in whose files the lake still had, with the recorded digests
    from_source: int  # those that were read anew

    @property
    def identical(self) -> bool:
        return all(self.rebuilt[name] == self.recorded[name] for name in MADE)


def reproduce(record: Record, lake: Lake, base: Path, root: Path, say: Callable[[str], None]) -> Rebuild:
    """Rebuild from a worktree of the repository at `root`: on raw files of `lake` that have the recorded
    digests, otherwise on what the source of the recorded configuration delivers, whose relative paths start
    at `base`.

    What cannot be begun is `CannotReproduce`.
    """
    with (
        tempfile.TemporaryDirectory(prefix="mlops-reproduce-") as folder,
        checkout(record, root, Path(folder, "code"), say) as code,
    ):
        workshop = Workshop(
            interpreter(code, root, Path(folder, "venv"), say), code, Path(folder, "home"), record, base
        )
        planted = plant(record, lake, workshop.lake)
        wanted, found = (
            sum(map(len, days)) for days in ([record.partitions[name] for name in RECEIVED], planted.values())
        )
        say(
            f"input: {found} of {wanted} partitions are in {lake.root} with the recorded digests; the source"
            " is asked for the others"
        )
        for step in steps(record, planted):
            say(f"{step.first} to {step.last}: {', '.join(step.assets)}")
            why = workshop.materialize(step.assets, "--partition-range", f"{step.first}...{step.last}")
            if why and any(
                workshop.lake.manifest(name, step.last) is None for name in RECEIVED if name in step.assets
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
    return Rebuild(recorded, rebuilt, tuple(differs), found, wanted - found)
