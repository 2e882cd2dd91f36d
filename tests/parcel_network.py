"""A small delivery network that changes: its configuration, the command on it, and its messages over HTTP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any

import httpx

from mlops_assets.resources.environments import Settings, load_settings
from mlops_assets.use_cases import find_use_case
from mlops_assets.use_cases.parcels.simulator import DeliveryNetwork

ROWS_AT_ONCE = 200


def network_toml(parcels_per_day: int = 300, leak: bool = False) -> str:
    """A network from 2026-01-01 on; a fortnight of it is enough to learn from."""
    return f"""
use_case = "parcels"

[time]
start = 2026-01-01
end = 2026-03-31

[source]
kind = "simulator"
parcels_per_day = {parcels_per_day}
leak = {str(leak).lower()}
start = 2026-01-01

[verdicts]
maturity_days = 1

[model]
holdout_days = 2
train_days = 20
warm_up_days = 1

[recipe]   # the defaults are for rows by the hundred thousand
max_rounds = 120
tolerance = 0.005
num_leaves = 15
min_data_in_leaf = 20
min_sum_hessian_in_leaf = 1.0
lambda_l2 = 2.0
feature_fraction = 0.7
legitimate_share = 1.0
num_threads = 1

[gate]
allow_dirty = true
max_positive_share = 0.6
"""


@dataclass(frozen=True)
class Home:
    """A folder with a configuration and a home, and the command on it."""

    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / "home"

    @property
    def environment(self) -> dict[str, str]:
        named = {"MLOPS_HOME": str(self.path), "MLOPS_CONFIG": str(self.folder / "parcels.toml")}
        return {**os.environ, **named}

    @property
    def settings(self) -> Settings:
        return load_settings(self.folder / "parcels.toml", self.path, find_case=find_use_case)

    def configure(self, text: str) -> Home:
        (self.folder / "parcels.toml").write_text(text)
        return self

    def mlops(self, *words: str) -> dict[str, Any]:
        """The object on the last line of a command that succeeds."""
        done = subprocess.run(
            [sys.executable, "-m", "mlops_assets", *words, "--json"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return dict(json.loads(done.stdout.splitlines()[-1]))


@dataclass
class Traffic:
    """The days of a network, sent to a running service in the order in which things become known."""

    network: DeliveryNetwork
    client: httpx.Client
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)

    def send(self, first: str, last: str) -> None:
        """Parcels one by one; labels and reports of the roads together, where no parcel comes between."""
        waiting: list[dict[str, Any]] = []
        path = ""
        for _, to, body in self._messages(date.fromisoformat(first), date.fromisoformat(last)):
            if waiting and (to != path or len(waiting) == ROWS_AT_ONCE):
                self._post_all(path, waiting)
                waiting = []
            path = to
            if to == "/predict":
                answer = self._post(to, {"parcel": body})
                self.answers[body["parcel_id"]] = answer
            else:
                waiting.append(body)
        if waiting:
            self._post_all(path, waiting)

    def _messages(self, first: date, last: date) -> list[tuple[datetime, str, dict[str, Any]]]:
        """When each row becomes known, where it goes, and the row. At one time the roads come first."""
        made = self.network
        found = []
        for path, table, known in (
            ("/streams/road_conditions", made.road_conditions(first, last), "created_timestamp"),
            ("/labels", made.labels(first, last), "label_timestamp"),
            ("/predict", made.parcels(first, last), "created_timestamp"),
        ):
            for row in table.drop_columns(["malformed", "arrival_day"]).to_pylist():
                found.append((row[known], path, {name: _json(value) for name, value in row.items()}))
        return sorted(found, key=lambda one: one[0])

    def _post_all(self, path: str, rows: list[dict[str, Any]]) -> None:
        answer = self._post(path, {"labels" if path == "/labels" else "events": rows})
        assert answer["accepted"] == len(rows), answer

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self.client.post(path, json=body)
        assert answer.status_code == 200, (path, answer.text)
        return dict(answer.json())


def _json(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
