"""Training as of a day, and as of one day after another: what was made already is not made again."""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_assets.cli.platform import CommandError, check_as_of, configured, padded, prepare, registry_exists
from mlops_assets.resources.environments import Settings

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from feature_repo.lake.datasets import Lake


def train(as_of: str, again: bool) -> dict[str, Any]:
    """One run of the model assets. A refusal by the gate is a result: it is told, and nothing failed."""
    from dagster import DagsterInstance

    from feature_repo.lake.datasets import Lake
    from mlops_assets.core.keys import EVALUATION, TRAINING_SET
    from mlops_assets.resources.promotion import lifecycle_of
    from mlops_assets.steps.training_rows import training_days
    from mlops_assets.use_cases import USE_CASES

    settings = configured()
    check_as_of(settings, as_of)
    registry_exists(settings)
    lake = Lake(settings.lake_root)
    training_days(USE_CASES[settings.use_case], lake, settings, as_of)
    prepare(settings)
    with one_at_a_time(settings.home), DagsterInstance.get() as instance:
        undecided = None if again else _undecided(settings, lake, as_of)
        result = _retrain(instance, as_of, undecided)
        judged = lake.read(EVALUATION, [as_of]).to_pylist()[0]
    decided = [
        row for row in lifecycle_of(settings).history.entries() if row["version"] == judged["version"]
    ][-1]
    return {
        "as_of": as_of,
        "version": judged["version"],
        "champion_before": judged["champion"],
        "verdict": decided["kind"],
        "reasons": decided["reasons"],
        "training_rows": lake.manifests(TRAINING_SET, [as_of])[0].rows,
        "run_id": result.run_id,
    }


def walk_forward(first: str, last: str, step: int, as_data: bool) -> dict[str, Any] | None:
    """Train and evaluate as of every `step` days, promote nothing, and report what each version would have
    caught on the days after it.
    """
    from dagster import DagsterInstance

    from feature_repo.lake.datasets import Lake
    from mlops_assets.cli.instance import give_way, run_job
    from mlops_assets.core.judging.walk_weeks import means, steps
    from mlops_assets.core.keys import MODEL, WALK_FORWARD
    from mlops_assets.pipeline import WALK
    from mlops_assets.resources.lake import to_frame
    from mlops_assets.steps.training_rows import training_days
    from mlops_assets.steps.walk_report import walk_partition, walk_tables
    from mlops_assets.use_cases import USE_CASES

    settings = configured()
    as_of_days = steps(first, last, step)
    check_as_of(settings, first, as_of_days[-1])
    registry_exists(settings)
    lake = Lake(settings.lake_root)
    for as_of in as_of_days:
        training_days(USE_CASES[settings.use_case], lake, settings, as_of)
    prepare(settings)
    with one_at_a_time(settings.home), DagsterInstance.get() as instance:
        for number, as_of in enumerate(as_of_days, 1):
            give_way(
                instance, MODEL
            )  # a walk takes hours, and what drift has asked for does not wait for its end
            print(
                f"{number} of {len(as_of_days)}: as of {as_of}: {_step(settings, lake, instance, as_of)}",
                file=sys.stderr,
                flush=True,
            )
        result = run_job(WALK, instance, config={WALK_FORWARD: {"first": first, "last": last, "step": step}})
        (made,) = result.asset_materializations_for_node(WALK_FORWARD)
    report = str(made.metadata["report"].value)
    stored = lake.read(WALK_FORWARD, [walk_partition(first, last, step)])
    weeks = to_frame(stored)
    if as_data:
        return {
            "from": first,
            "to": last,
            "step": step,
            "weeks": stored.to_pylist(),
            "means": means(weeks),
            "report": report,
        }
    for title, cells in walk_tables(USE_CASES[settings.use_case], weeks, settings.model.precision_k).items():
        print(f"{title}:\n{padded([[str(cell) for cell in line] for line in cells])}")
    print(f"report: {report}")
    return None


@contextmanager
def one_at_a_time(home: Path) -> Iterator[None]:
    """While another command trains in this home, wait: two that train as of one day would each take the
    other's version for their own.

    The system gives the lock back when a process ends, however it does. A run that Dagster launched has its
    pool, and does not wait for this.
    """
    with (home / "training.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(
                "another command trains in this home: this one goes on when it has ended",
                file=sys.stderr,
                flush=True,
            )
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class Made:
    """The version of an as-of day, where it was made from the data, configuration and code that there are
    now.

    `evaluated` says whether that version was measured, and `against` which champion.
    """

    version: str
    evaluated: bool
    against: str | None


def made_already(settings: Settings, lake: Lake, as_of: str) -> Made | None:
    """The version that a training as of the day would come to again; None where there is none."""
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
    return Made(number, evaluated, judged["champion"] if evaluated else None)


def _step(settings: Settings, lake: Lake, instance: DagsterInstance, as_of: str) -> str:
    """Make what is missing of one as-of day up to its evaluation, and say what that was.

    The decision is no part of it.
    """
    from mlops_assets.cli.instance import RunFailed
    from mlops_assets.core.keys import EVALUATION, RECIPE, TRAINED_MODEL, TRAINING_SET
    from mlops_assets.steps.version_training import trained_version

    made = made_already(settings, lake, as_of)
    if made and made.evaluated:
        return f"is there already as version {made.version}"
    try:
        _retrain(instance, as_of, [EVALUATION] if made else [TRAINING_SET, RECIPE, TRAINED_MODEL, EVALUATION])
    except RunFailed as error:
        raise CommandError(f"as of {as_of}: {error}") from error
    return (
        f"evaluated version {made.version}, which was trained already"
        if made
        else f"trained as version {trained_version(lake, as_of)}"
    )


def _undecided(settings: Settings, lake: Lake, as_of: str) -> list[str] | None:
    """What is left to do of a training that was cut off before its decision was on record; None where all of
    it is.

    An evaluation against a champion that serves no longer, as a walk-forward leaves many, is done again.
    Where the same data, configuration and code were trained and decided on already, `CommandError`: it would
    be the same version again.
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
            " (--again trains it anew)"
        )
    champion = lifecycle.registry.champion()
    judged = made.evaluated and (champion and champion.version) in (made.against, made.version)
    return [PROMOTED_VERSION] if judged else [EVALUATION, PROMOTED_VERSION]


def _retrain(instance: DagsterInstance, as_of: str, assets: Sequence[str] | None) -> Any:
    """One run of the model assets, or of some of them."""
    from dagster import AssetKey

    from mlops_assets.cli.instance import run_job
    from mlops_assets.pipeline import RETRAINING

    return run_job(
        RETRAINING,
        instance,
        day=as_of,
        select=None if assets is None else [AssetKey(name) for name in assets],
    )


def _training_set_digest(settings: Settings, lake: Lake, as_of: str) -> str:
    """The digest that the training set of the day would have, without writing it."""
    from mlops_assets.resources.feature_store import feature_store_of
    from mlops_assets.steps.training_rows import training_set_digest
    from mlops_assets.use_cases import USE_CASES

    case = USE_CASES[settings.use_case]
    plan = feature_store_of(settings).plan(case.feature_service)
    return training_set_digest(case, lake, settings, as_of, plan.features)
