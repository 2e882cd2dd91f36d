"""What is dear and made once: a home with the handbook's state and model, its releases, and bodies to send.

The home is made by the platform's own commands. Three more releases of its model differ in their thresholds:
they let everything pass, stop everything, and stop about one in a hundred: of the vectors, or of the
transactions.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from feature_repo.lake.datasets import Lake
from feature_repo.times import DAY_US
from mlops_assets.resources.lake import day_range
from serving.champion_registry import ALIAS, BUNDLE, DIGEST_TAG, MlflowRegistry
from serving.contract.bundle import MODEL, ONNX, Release, load_reference, load_release, write_release
from serving.contract.policy import Policy
from serving.contract.records import Answer
from serving.contract.scorers.base import Scorer, load_scorer
from serving.data_plane import DataPlane
from serving.protocols.native.wire import wire_of
from serving.releases import Champion
from serving.settings import ServingSettings
from serving.store.opening import serving_store

from .cells import MARK, Load, bodies_of, write_lines

ROOT = Path(__file__).parents[2]
USE_CASE, TRAINED = "fraud", "1"
ALLOW, BLOCK, MIXED, MIXED_EVENTS = "allow", "block", "mixed", "mixed-events"
STOPPED_SHARE = 0.01
SCORED = 10_000  # Transactions from whose scores the threshold for transactions is made: about a day.
VECTORS, VECTOR_DAYS, ROWS = 10_000, 7, 100
FIRST_PAYMENTS = 120_000
EXPERIMENT = "benchmark"
DONE = "prepared.json"
READ_ONLY = ("serving", "mlflow")  # Of the home, what the service needs. It reads the lake where it is.


class PreparationFailed(Exception):
    """A home could not be made, or the folder has one of other data."""


@dataclass(frozen=True)
class Prepared:
    """A prepared folder. `versions` has the version of each release, by what it decides."""

    folder: Path
    events: int
    features: tuple[str, ...]
    versions: dict[str, str]
    first: date
    last: date

    @property
    def days(self) -> int:
        """Of the history."""
        return (self.last - self.first).days + 1

    @property
    def home(self) -> Path:
        """The home, which stays as it is."""
        return self.folder / "home"

    @property
    def scratch(self) -> Path:
        """For homes, logs and bodies of running servers."""
        made = self.folder / "scratch"
        made.mkdir(exist_ok=True)
        return made

    @property
    def first_payments(self) -> Path:
        """A file with the bodies of the first `FIRST_PAYMENTS`, which is there before a service starts."""
        return self.folder / "first-payments.ndjson"

    @property
    def model(self) -> Path:
        """LightGBM's text of the model."""
        return self.folder / MODEL

    def copy_home(self, to: Path) -> Path:
        """A home of its own for one service, without the lake."""
        shutil.rmtree(to, ignore_errors=True)
        to.mkdir()
        for name in READ_ONLY:
            shutil.copytree(self.home / name, to / name)
        return to

    def payments(self, start: int, count: int) -> Iterator[bytes]:
        """Bodies of transactions that go on where the home's history ends, at the history's own pace.

        The transactions of the history come again, with the same keys and amounts, later by its length. After
        the last one the first one follows, later by twice the length.
        """
        columns, length_us = self._payments, self.days * DAY_US
        numbers = np.arange(start, start + count)
        laps, rows = np.divmod(numbers, len(columns["event_us"]))
        times = (columns["event_us"][rows] + (laps + 1) * length_us).astype("datetime64[us]")
        told = np.datetime_as_string(times, unit="s")
        for row, time in zip(rows.tolist(), told.tolist(), strict=True):
            customer, merchant = columns["customer_id"][row], columns["merchant_id"][row]
            yield (
                f'{{"transaction":{{"transaction_id":"{MARK.decode()}","event_timestamp":"{time}Z",'
                f'"customer_id":"{customer}","merchant_id":"{merchant}","amount":{columns["amount"][row]!r}}}}}'
            ).encode()

    def vectors(self) -> NDArray[np.float64]:
        """Vectors of the last days of the history in which no value is missing: [rows, features]."""
        return np.load(self.folder / "vectors.npy")

    def bodies(self, name: str, rows_at_once: int, body: Callable[[Sequence[Sequence[float]]], Any]) -> Path:
        """A file of bodies with ready vectors, made by `body` of some vectors; made once for a name."""
        path = self.folder / f"{name}-{rows_at_once}.ndjson"
        if not path.exists():
            vectors = self.vectors().tolist()
            starts = range(0, len(vectors) - rows_at_once + 1, rows_at_once)
            made = (json.dumps(body(vectors[at : at + rows_at_once])).encode() for at in starts)
            write_lines(path.with_suffix(".part"), made).rename(path)
        return path

    def promote(self, home: Path, release: str) -> str:
        """Let the alias of a copy name a release by its name in `versions`; returns its version."""
        client_of(home).set_registered_model_alias(USE_CASE, ALIAS, self.versions[release])
        return self.versions[release]

    @cached_property
    def _payments(self) -> dict[str, Any]:
        table = pq.read_table(self.folder / "payments.parquet")
        return {
            name: table[name].to_numpy() if name == "event_us" else table[name].to_pylist()
            for name in table.column_names
        }


def prepared(data: Path, folder: Path) -> Prepared:
    """The prepared folder; made, in some minutes, where it is not there yet.

    Raises `PreparationFailed` where it could not be made, and where it was made of other files.
    """
    source = {"path": str(data.resolve()), "digest": _digest(data)}
    if not (folder / DONE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            made = _make(data, folder)
        except Exception as error:
            why = f"the preparation ended half way ({error}); remove {folder} and start again"
            raise PreparationFailed(why) from error
        told = {**asdict(made), "folder": "", "first": str(made.first), "last": str(made.last)}
        (folder / DONE).write_text(json.dumps({**told, "data": source}))
    kept = json.loads((folder / DONE).read_text())
    of = kept.get("data", source)  # A folder from before it was kept is taken as it is.
    if of["digest"] != source["digest"]:
        why = f"{folder} was made of {of['path']}, not of the files in {data}; name another one with --work"
        raise PreparationFailed(why)
    first, last = date.fromisoformat(kept["first"]), date.fromisoformat(kept["last"])
    return Prepared(folder.resolve(), kept["events"], tuple(kept["features"]), kept["versions"], first, last)


def _digest(data: Path) -> str:
    """Of the names and sizes of the files, because their contents take too long at each start."""
    files = sorted((path.name, path.stat().st_size) for path in data.glob("*.parquet"))
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def client_of(home: Path) -> Any:
    """MLflow's client of a home's registry."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient

    uri = f"sqlite:///{home}/mlflow/mlflow.db"
    return MlflowClient(uri, uri)


def _make(data: Path, folder: Path) -> Prepared:
    days = sorted(path.stem for path in data.glob("*.parquet"))
    first, last = days[0], days[-1]
    home = (folder / "home").resolve()
    if not (home / "mlflow").exists():
        _fill(data, folder, home, first, last)
    place, release = _release(home, folder)
    scorer, lake = load_scorer(release, place), Lake(home / "lake")
    shutil.copyfile(place / MODEL, folder / MODEL)
    recent = day_range((date.fromisoformat(last) - timedelta(days=VECTOR_DAYS - 1)).isoformat(), last)
    table = lake.read("feature_vectors", recent, list(release.features))
    matrix = np.column_stack([table[name].to_numpy().astype(np.float64) for name in release.features])
    matrix = matrix[~np.isnan(matrix).any(axis=1)]
    np.save(folder / "vectors.npy", matrix[:VECTORS])
    count = _keep_payments(lake, lake.between("transactions", first, last), folder / "payments.parquet")
    begin, end = date.fromisoformat(first), date.fromisoformat(last)
    made = Prepared(folder.resolve(), count, release.features, {}, begin, end)
    write_lines(made.first_payments, made.payments(0, FIRST_PAYMENTS))
    passing = replace(release, policy=Policy(2, 3))
    of_vectors = float(np.quantile(scorer.score(matrix), 1 - STOPPED_SHARE))
    of_events = float(np.quantile(_scores_of_events(made, passing, scorer), 1 - STOPPED_SHARE))
    policies = {
        ALLOW: passing.policy,
        BLOCK: Policy(0, 0),
        MIXED: Policy(of_vectors, of_vectors),
        MIXED_EVENTS: Policy(of_events, of_events),
    }
    return replace(made, versions=_register(home, folder, place, release, policies))


def _scores_of_events(made: Prepared, release: Release, scorer: Scorer) -> list[float]:
    """What the first transactions score on a copy of the home, decided one after the other."""
    home = made.copy_home(made.scratch / "home-scored")
    settings = ServingSettings(home, clock="event", lake=str(made.home / "lake"))
    champion = Champion(TRAINED, "", release, scorer)
    plane = DataPlane(settings, serving_store(settings.database), lambda: champion, lambda: 0)
    bodies, wire = bodies_of(Load(0, "", made.first_payments, "scored-", ())), wire_of(release.subject)
    scores = list[float]()
    for body in islice(bodies, SCORED):
        (outcome,) = plane.predict_many([wire.asked(body)])
        assert isinstance(outcome, Answer), outcome
        scores.append(outcome.score)
    plane.close()
    shutil.rmtree(home)
    return scores


def _fill(data: Path, folder: Path, home: Path, first: str, last: str) -> None:
    """The handbook's whole history, and a model as of the day after it."""
    replaced = {"path": json.dumps(str(data.resolve())), "start": first, "end": last}
    lines = (ROOT / "docs" / "handbook.toml").read_text(encoding="utf-8").splitlines()
    for i, line in enumerate(lines):
        name = line.partition(" = ")[0]
        lines[i] = f"{name} = {replaced[name]}" if name in replaced else line
    config = folder / "handbook.toml"
    config.write_text("\n".join(lines), encoding="utf-8")
    environment = {**os.environ, "MLOPS_HOME": str(home), "MLOPS_CONFIG": str(config), "DO_NOT_TRACK": "true"}
    environment.pop("DAGSTER_HOME", None)

    def mlops(*words: str) -> None:
        print(f"mlops {' '.join(words)}", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "mlops_assets", *words]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            told = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise PreparationFailed(f"mlops {' '.join(words)}: {told[-1]}")

    mlops("backfill", "--from", first, "--to", last)
    mlops("train", "--as-of", (date.fromisoformat(last) + timedelta(days=1)).isoformat())


def _release(home: Path, folder: Path) -> tuple[Path, Release]:
    """The trained version and its bundle. What the gate said of it does not matter to a benchmark."""
    client_of(home).set_registered_model_alias(USE_CASE, ALIAS, TRAINED)
    registry = MlflowRegistry(f"sqlite:///{home}/mlflow/mlflow.db", USE_CASE)
    named = registry.champion()
    if named is None:
        raise PreparationFailed(f"{home} has no version {TRAINED} of {USE_CASE}")
    into = folder / "trained"
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir()
    place = registry.download(named, into)
    return place, load_release(place)


def _register(
    home: Path, folder: Path, place: Path, release: Release, policies: dict[str, Policy]
) -> dict[str, str]:
    """Releases that differ in their thresholds; returns their versions."""
    client, versions = client_of(home), {}
    known = client.get_experiment_by_name(EXPERIMENT)
    place_of_bundles = f"file://{folder.resolve()}/bundles"
    experiment = (
        known.experiment_id
        if known
        else client.create_experiment(EXPERIMENT, artifact_location=place_of_bundles)
    )
    for name, policy in policies.items():
        bundle = folder / f"bundle-{name}"
        shutil.rmtree(bundle, ignore_errors=True)
        digest = write_release(
            replace(release, policy=policy), bundle, load_reference(place), (place / ONNX).read_bytes()
        )
        run = client.create_run(experiment)
        client.log_artifacts(run.info.run_id, str(bundle), BUNDLE)
        client.set_terminated(run.info.run_id)
        source = f"runs:/{run.info.run_id}/{BUNDLE}"
        made = client.create_model_version(USE_CASE, source, run.info.run_id, tags={DIGEST_TAG: digest})
        versions[name] = str(made.version)
    return versions


def _keep_payments(lake: Lake, days: list[str], path: Path) -> int:
    """What a transaction's request needs, of all days by event time; returns how many there are."""
    names = ["transaction_id", "event_timestamp", "customer_id", "merchant_id", "amount"]
    table = lake.read("transactions", days, names).sort_by(
        [("event_timestamp", "ascending"), ("transaction_id", "ascending")]
    )
    event_us = table["event_timestamp"].cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    table = table.drop_columns(["event_timestamp", "transaction_id"]).append_column("event_us", event_us)
    pq.write_table(table, path)
    return int(table.num_rows)
