"""A home of its own, in which recorded code works on recorded input with the recorded configuration."""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path

import pyarrow.parquet as pq

from feature_repo.lake.datasets import MANIFEST, Lake, LakeFile, Manifest, schema_of
from mlops_assets.core.keys import (
    FEATURE_VECTORS,
    LABELS,
    PREDICTION_LOG,
    QUARANTINED_LABELS,
    QUARANTINED_TRANSACTIONS,
    RAW_LABELS,
    RAW_TRANSACTIONS,
    TRANSACTIONS,
)
from mlops_assets.resources.provenance import INGESTED, RECORD, Days, Record, inputs

RECEIVED = (
    PREDICTION_LOG,
    RAW_TRANSACTIONS,
    RAW_LABELS,
)  # made of nothing in the lake: found there, or read from the source
TOGETHER = {TRANSACTIONS: QUARANTINED_TRANSACTIONS, LABELS: QUARANTINED_LABELS}  # made in the same step
INSTANCE = "telemetry:\n  enabled: false\nnux:\n  enabled: false\n"
FOREIGN = (
    "MLOPS_",
    "MLFLOW_",
    "DAGSTER_",
    "PYTHON",
)  # settings of this process, which the version was not made with
ERRORS = re.compile(
    r"^(?:mlops_assets|feature_repo|serving|dagster)[\w.]*: "
)  # their names say less than their messages


class Workshop:
    """The recorded code at `code` under the interpreter `python`, with its state in `home`; nothing else is
    written to.
    """

    def __init__(self, python: Path, code: Path, home: Path, record: Record, base: Path) -> None:
        self._python, self._code, self._home, self._recorded = python, code, home, record
        self.lake = Lake(home / "lake")
        (home / "dagster").mkdir(parents=True)
        (home / "dagster" / "dagster.yaml").write_text(INSTANCE)
        own = {
            "MLOPS_HOME": home,
            "MLOPS_LAKE": self.lake.root,
            "DAGSTER_HOME": home / "dagster",
            "PYTHONPATH": code,
        }
        if record.config:
            (home / "config.toml").write_bytes(record.config.encode())
            own |= {"MLOPS_CONFIG": home / "config.toml", "MLOPS_CONFIG_BASE": base}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        self._environment = {
            **kept,
            "DO_NOT_TRACK": "true",
            "FEAST_USAGE": "False",
            **{name: str(value) for name, value in own.items()},
        }

    def materialize(self, assets: Sequence[str], *partition: str) -> str | None:
        """Make them in one run; where it fails, why."""
        names = ",".join([*assets, *(TOGETHER[name] for name in assets if name in TOGETHER)])
        command = [
            str(self._python),
            "-m",
            "dagster",
            "asset",
            "materialize",
            "-m",
            "mlops_assets.definitions",
            "--select",
            names,
            *partition,
        ]
        done = subprocess.run(
            command, cwd=self._code, env=self._environment, capture_output=True, text=True, check=False
        )
        return reason(done.stdout + done.stderr) if done.returncode else None

    def record(self) -> Record | None:
        """What the recorded code says of the version that it made; None where it made none."""
        places = list(self._home.glob(f"mlflow/artifacts/*/artifacts/{RECORD}"))
        return (
            Record.from_json(places[0].read_text(encoding="utf-8"), f"the rebuilt {RECORD}")
            if places
            else None
        )

    def inputs(self) -> tuple[Mapping[str, Days], Mapping[str, Sequence[str]]]:
        """What it would say of the input, had it come to a version."""
        recorded = self._recorded.partitions
        views = [name for name in recorded if name not in (*INGESTED, FEATURE_VECTORS)]
        return inputs(self.lake, self._recorded.as_of, min(recorded[FEATURE_VECTORS], default=""), views)


def plant(record: Record, lake: Lake, to: Lake) -> dict[str, set[str]]:
    """Copy what came in as far as `lake` has the files with the recorded digests, whatever its partitions
    hold by now: dataset -> days.
    """
    planted: dict[str, set[str]] = {name: set() for name in RECEIVED}
    for dataset in RECEIVED:
        for day, digests in record.partitions[dataset].items():
            contents = [
                content for digest in digests if (content := _file(lake, dataset, day, digest)) is not None
            ]
            if len(contents) == len(digests):
                _put(to, dataset, day, contents, validated=dataset == PREDICTION_LOG)
                planted[dataset].add(day)
    return planted


@dataclass(frozen=True)
class Step:
    """Days on end for which the same assets have to be made. `sound`: all of them had passed their checks."""

    assets: tuple[str, ...]
    first: str
    last: str
    sound: bool = True


def steps(record: Record, planted: Mapping[str, set[str]]) -> list[Step]:
    """The runs that make what the record names and nobody planted, in the order of days.

    A log of what was served can only be planted.
    """
    made = {name: days for name, days in record.partitions.items() if name != PREDICTION_LOG}
    unsound = {day for days in record.unvalidated.values() for day in days}
    found: list[Step] = []
    for day in sorted({day for days in made.values() for day in days}):
        assets = tuple(
            name for name, days in made.items() if day in days and day not in planted.get(name, ())
        )
        step = Step(assets, day, day, day not in unsound)
        # A day that fails its checks stops its run, so that it has one for itself.
        if found and found[-1] == Step(assets, found[-1].first, _before(day)) and step.sound:
            found[-1] = replace(found[-1], last=day)
        elif assets:
            found.append(step)
    return found


def reason(output: str) -> str:
    """Why a run failed, out of all that Dagster says: the cause of its first failed step."""
    causes = re.findall(
        r"^The above exception was caused by the following exception:\n(.+)$", output, re.MULTILINE
    )
    others = re.findall(r"^[\w.]+Error: .+$", output, re.MULTILINE)
    return ERRORS.sub("", [*causes, *others, "Dagster does not say why"][0])[:500]


def _file(lake: Lake, dataset: str, day: str, digest: str) -> bytes | None:
    try:
        content: bytes = lake.fs.cat_file(f"{lake.root}/{dataset}/{day}/{digest[:32]}.parquet")
    except (FileNotFoundError, NotADirectoryError):
        return None
    return content if hashlib.sha256(content).hexdigest() == digest else None


def _put(lake: Lake, dataset: str, day: str, contents: Sequence[bytes], validated: bool) -> None:
    """The very bytes as a partition of a lake on this disk: written anew, by another version of Arrow, they
    could be others.
    """
    folder = Path(lake.root, dataset, day)
    folder.mkdir(parents=True)
    files, schema = [], {}
    for content in contents:
        metadata, digest = pq.read_metadata(io.BytesIO(content)), hashlib.sha256(content).hexdigest()
        schema = schema_of(metadata.schema.to_arrow_schema())
        files.append(LakeFile(f"{digest[:32]}.parquet", metadata.num_rows, len(content), digest))
        (folder / files[-1].name).write_bytes(content)
    manifest = Manifest(dataset, day, sum(file.rows for file in files), schema, tuple(files), validated)
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")


def _before(day: str) -> str:
    return (date.fromisoformat(day) - timedelta(days=1)).isoformat()
