"""Training as of one day. What exists already is not made again."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from mlops_assets.cli.platform import CommandError, case_of
from mlops_assets.resources.environments import Settings

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from feature_repo.lake.datasets import Lake


@contextmanager
def one_at_a_time(home: Path) -> Iterator[None]:
    """Wait while another command trains in this home.

    Two commands that train as of one day would each take the other's version for their own. A killed process
    holds no lock. A run that Dagster launched waits in its pool and not for this lock.
    """
    lock = FileLock(home / "training.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(
            "another command trains in this home: this one goes on when it has ended",
            file=sys.stderr,
            flush=True,
        )
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class TrainedBefore:
    """The version of an as-of day that was made from today's data, configuration and code.

    `evaluated` says whether that version was measured, `against` names the champion it was measured against.
    """

    version: str
    evaluated: bool
    against: str | None


def made_already(settings: Settings, lake: Lake, as_of: str) -> TrainedBefore | None:
    """The version that a training as of the day would make again; None where there is none."""
    from mlops_assets.core.keys import EVALUATION, TRAINED_MODEL
    from mlops_assets.resources import provenance
    from mlops_assets.resources.registry import registry_of

    if lake.manifest(TRAINED_MODEL, as_of) is None:
        return None
    number = lake.read(TRAINED_MODEL, [as_of]).to_pylist()[0]["version"]
    tags = registry_of(settings).version(number).tags
    now = {
        name: value for name, value in provenance.provenance(settings).items() if not name.startswith("git_")
    }
    if any(tags.get(name) != value for name, value in now.items()) or tags.get(
        "training_set_digest"
    ) != _training_set_digest(settings, lake, as_of):
        return None
    judged = {} if lake.manifest(EVALUATION, as_of) is None else lake.read(EVALUATION, [as_of]).to_pylist()[0]
    evaluated = judged.get("version") == number
    return TrainedBefore(number, evaluated, judged["champion"] if evaluated else None)


def retrain(instance: DagsterInstance, as_of: str, assets: Sequence[str] | None) -> Any:
    """One run of the model assets, or of those that `assets` name. Returns Dagster's result."""
    from dagster import AssetKey

    from mlops_assets.cli.instance import run_job
    from mlops_assets.pipeline import RETRAINING

    return run_job(
        RETRAINING,
        instance,
        day=as_of,
        select=None if assets is None else [AssetKey(name) for name in assets],
    )


def evaluate_as_of(settings: Settings, lake: Lake, instance: DagsterInstance, as_of: str) -> str:
    """Make the missing assets of one as-of day up to its evaluation. Returns in words what was made.

    No decision is taken on the version.
    """
    from mlops_assets.cli.instance import RunFailed
    from mlops_assets.core.keys import EVALUATION, RECIPE, TRAINED_MODEL, TRAINING_SET
    from mlops_assets.steps.model.version_training import trained_version

    made = made_already(settings, lake, as_of)
    if made and made.evaluated:
        return f"is there already as version {made.version}"
    try:
        retrain(instance, as_of, [EVALUATION] if made else [TRAINING_SET, RECIPE, TRAINED_MODEL, EVALUATION])
    except RunFailed as error:
        raise CommandError(f"as of {as_of}: {error}") from error
    return (
        f"evaluated version {made.version}, which was trained already"
        if made
        else f"trained as version {trained_version(lake, as_of)}"
    )


def undecided(settings: Settings, lake: Lake, as_of: str) -> list[str] | None:
    """The assets that are left of a training which stopped before its decision; None for all assets.

    An evaluation against a champion that no longer serves is done again, of which a walk-forward leaves many.
    `CommandError` where the same data, configuration and code were trained and decided on already, because
    another training would make the same version.
    """
    from mlops_assets.core.keys import EVALUATION, PROMOTED_VERSION
    from mlops_assets.resources.promotion import lifecycle_of

    if (made := made_already(settings, lake, as_of)) is None:
        return None
    lifecycle = lifecycle_of(settings)
    cut_off = lifecycle.unconfirmed()
    if any(
        entry["version"] == made.version and entry not in cut_off for entry in lifecycle.history.entries()
    ):
        raise CommandError(
            f"as of {as_of}: version {made.version} was trained from the same data, configuration and code"
            " (--again trains it once more)"
        )
    champion = lifecycle.registry.champion()
    judged = made.evaluated and (champion and champion.version) in (made.against, made.version)
    return [PROMOTED_VERSION] if judged else [EVALUATION, PROMOTED_VERSION]


def _training_set_digest(settings: Settings, lake: Lake, as_of: str) -> str:
    """The digest that the training set of the day would have. Nothing is written."""
    from mlops_assets.resources.feature_store import feature_store_of
    from mlops_assets.steps.model.training_rows import training_set_digest

    case = case_of(settings)
    plan = feature_store_of(settings, case).plan(case.feature_service)
    return training_set_digest(case, lake, settings, as_of, plan.features)
