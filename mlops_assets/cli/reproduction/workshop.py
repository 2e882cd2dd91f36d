"""A separate home, in which the recorded code works on the recorded input with the recorded configuration."""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq

from feature_repo.lake.datasets import MANIFEST, Lake, LakeFile, Manifest, schema_of
from mlops_assets.core.keys import FEATURE_VECTORS, PREDICTION_LOG, VERDICTS
from mlops_assets.resources.lake import shift
from mlops_assets.resources.provenance import RECORD, Days, Record, inputs

INSTANCE = "telemetry:\n  enabled: false\nnux:\n  enabled: false\n"
# Settings of this process. The version was made without them.
FOREIGN = ("MLOPS_", "MLFLOW_", "DAGSTER_", "PYTHON")
# The class of an error before its message. It says less than the message.
ERRORS = re.compile(r"^(?:mlops_assets|feature_repo|serving|dagster)[\w.]*: ")


class Workshop:
    """The recorded code at `code` under the interpreter `python`. It writes only to `home`."""

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
        """Materialize the assets in one run. Returns why the run failed; None where it succeeded."""
        # One step makes the accepted rows of a stream and its quarantine.
        validated = [name for name in assets if f"raw_{name}" in self._recorded.partitions]
        names = ",".join([*assets, *(f"quarantined_{name}" for name in validated)])
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
        """The record that the recorded code wrote of its version; None where it made no version."""
        places = list(self._home.glob(f"mlflow/artifacts/*/artifacts/{RECORD}"))
        return (
            Record.from_json(places[0].read_text(encoding="utf-8"), f"the rebuilt {RECORD}")
            if places
            else None
        )

    def inputs(self) -> tuple[Mapping[str, Days], Mapping[str, Sequence[str]]]:
        """The inputs in this home, as a record of a version would name them."""
        recorded = self._recorded.partitions
        came_in = [name for name in recorded if _is_ingested(name, recorded)]
        views = [name for name in recorded if name not in (*came_in, FEATURE_VECTORS)]
        first = min(recorded[FEATURE_VECTORS], default="")
        return inputs(self.lake, came_in, self._recorded.as_of, first, views)


def received(record: Record) -> list[str]:
    """The datasets that are made from nothing in the lake. Their files exist, or come from the source."""
    return [name for name in record.partitions if name == PREDICTION_LOG or name.startswith("raw_")]


def _is_ingested(dataset: str, recorded: Mapping[str, Days]) -> bool:
    """Whether a dataset exists before any feature, by the names of a record."""
    return dataset in (PREDICTION_LOG, VERDICTS) or dataset.startswith("raw_") or f"raw_{dataset}" in recorded


def plant(record: Record, lake: Lake, to: Lake) -> dict[str, set[str]]:
    """Copy the days of raw data whose files `lake` has with the recorded digests. Returns dataset -> days.

    Only the files count. The partitions of `lake` may hold other files by now.
    """
    planted: dict[str, set[str]] = {name: set() for name in received(record)}
    for dataset in planted:
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
    """Consecutive days for which the same assets have to be made. `sound`: their checks had passed."""

    assets: tuple[str, ...]
    first: str
    last: str
    sound: bool = True


def steps(record: Record, planted: Mapping[str, set[str]]) -> list[Step]:
    """The runs that make what the record names and `plant` did not copy, in the order of days.

    The log of served decisions can only be copied.
    """
    made = {name: days for name, days in record.partitions.items() if name != PREDICTION_LOG}
    unsound = {day for days in record.unvalidated.values() for day in days}
    found: list[Step] = []
    for day in sorted({day for days in made.values() for day in days}):
        assets = tuple(
            name for name, days in made.items() if day in days and day not in planted.get(name, ())
        )
        step = Step(assets, day, day, day not in unsound)
        # A day that fails its checks stops its run. Such a day has a run of its own.
        if found and found[-1] == Step(assets, found[-1].first, shift(day, -1)) and step.sound:
            found[-1] = replace(found[-1], last=day)
        elif assets:
            found.append(step)
    return found


def reason(output: str) -> str:
    """Why a run failed: the cause of its first failed step, from Dagster's output."""
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
    """Put the same bytes as a partition into a lake on this disk.

    Another version of Arrow could write the same rows as other bytes.
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
