"""A new feature is one line in a list: added to a copy of the project as docs/features.md tells it, and
followed to a served payment.
"""

import json
import re
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from banks import TINY_BANK
from test_cli import Platform

from feature_repo.lake.datasets import Lake
from mlops_assets.cli.demo.background import free_port, wait_until_ready
from serving.contract.before_subjects import BEFORE
from serving.store.opening import serving_log

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NO_SOURCE = (
    ".git",
    ".venv",
    "var",
    "dist",
    "build",
    "mlruns",
    "__pycache__",
    "*.egg-info",
    ".*_cache",
    ".hypothesis",
)
FEATURE = "min_txn_amount_7d"

AS_OF = "2025-03-23"
FIRST, LAST = "2025-03-01", "2025-03-22"
FIRST_READ = "2025-03-07"  # train_days and maturity_days before AS_OF
PAID_AT = datetime(2025, 3, 23, 0, 0, 1, tzinfo=UTC)

WHERE = (
    "import feature_repo, mlops_assets, serving; print(feature_repo.__file__, mlops_assets.__file__,"
    " serving.__file__)"
)
ASK_FEAST = """
import json, sys
from pathlib import Path
import pandas as pd
from feature_repo.store import open_store

home, payment = Path(sys.argv[1]), json.loads(sys.argv[2])
moment = pd.to_datetime([payment["event_timestamp"]])
names = ("customer_id", "merchant_id", "amount")
moments = {"event_timestamp": moment, "event_time_us": moment.as_unit("us").astype("int64")}
rows = pd.DataFrame({n: [payment[n]] for n in names} | moments)
store = open_store(home, "feature_repo.fraud")
service = store.get_feature_service("fraud_v1")
projections = service.feature_view_projections
features = [feature.name for projection in projections for feature in projection.features]
found = store.get_historical_features(rows, features=service).to_df()[features].astype("float64").iloc[0]
print(json.dumps({name: None if value != value else value for name, value in found.items()}))
"""


def test_adding_a_feature_is_one_declaration_and_no_other_edit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = copy_of_the_project(tmp_path / "project")
    monkeypatch.setenv(
        "PYTHONPATH", str(project)
    )  # before the installed packages, which are those of this tree
    platform = Platform(tmp_path).configure(TINY_BANK)
    assert all(Path(place).is_relative_to(project) for place in run_python(tmp_path, WHERE).split())

    platform.result("backfill", "--from", FIRST, "--to", LAST)
    assert platform.result("train", "--as-of", AS_OF)["verdict"] == "promoted"
    lake = Lake(platform.home / "lake")
    before = set(lake.manifests("feature_vectors", [LAST])[0].schema)
    assert FEATURE not in before
    one, another = payments(lake)

    declare(project / "feature_repo" / "fraud" / "views.py", *walk_through())
    platform.result("backfill", "--from", FIRST_READ, "--to", LAST, "--group", "features")
    assert set(lake.manifests("feature_vectors", [LAST])[0].schema) == before | {FEATURE}

    with service(platform) as client:
        # The version from before the line goes on, with the vector that it knows.
        old = client.get("/health").json()
        assert (old["model_version"], FEATURE in old["features"]) == ("1", False)
        assert client.post("/predict", json={"transaction": one}).json()["model_version"] == "1"

        trained = platform.result("train", "--as-of", AS_OF)
        assert (trained["version"], trained["champion_before"], trained["verdict"]) == (
            "2",
            "1",
            "promoted",
        ), trained
        assert FEATURE in lake.manifests("training_set", [AS_OF])[0].schema
        new = health_of_version(client, "2")
        assert set(new["features"]) == set(old["features"]) | {FEATURE}
        assert client.post("/predict", json={"transaction": another}).json()["model_version"] == "2"

    decisions = {
        d["prediction_id"]: d
        for d in serving_log(platform.home / "serving" / "serving.db").decisions(AS_OF, BEFORE).to_pylist()
    }
    assert FEATURE not in json.loads(decisions["one"]["features"])
    served = json.loads(decisions["another"]["features"])
    assert list(served) == new["features"]
    assert served == json.loads(run_python(tmp_path, ASK_FEAST, platform.home, json.dumps(another)))
    assert served[FEATURE] == min(amounts_of_the_week(lake, another["customer_id"])) > 0


# A copy, and the line


def copy_of_the_project(to: Path) -> Path:
    """What git keeps or would keep, as it stands in the working tree; without git, all that is no build
    product.
    """
    if not (ROOT / ".git").exists():
        return shutil.copytree(ROOT, to, ignore=shutil.ignore_patterns(*NO_SOURCE))
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():  # a file that was removed is still listed
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    return to


def walk_through() -> tuple[str, str]:
    """The line of docs/features.md, and the one that it comes after."""
    section = (ROOT / "docs" / "features.md").read_text().split("## Add a feature\n")[1]
    (diff,) = re.findall(r"^ *```diff\n(.*?)^ *```", section, re.MULTILINE | re.DOTALL)
    anchor, added = textwrap.dedent(diff).splitlines()
    assert (anchor[0], added[0]) == (" ", "+"), diff
    return anchor[1:], added[1:]


def declare(views: Path, anchor: str, added: str) -> None:
    text = views.read_text()
    assert text.count(f"\n{anchor}\n") == 1, f"views.py has no single line {anchor!r} as in docs/features.md"
    views.write_text(text.replace(f"\n{anchor}\n", f"\n{anchor}\n{added}\n"))


# Payments, the service, and Feast


def payments(lake: Lake) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two payments that have nothing in common, of customers and at merchants of the last day."""
    rows = lake.read("transactions", [LAST]).to_pylist()
    first = rows[0]
    second = next(
        r
        for r in rows
        if r["customer_id"] != first["customer_id"] and r["merchant_id"] != first["merchant_id"]
    )
    one, another = (
        {
            "transaction_id": name,
            "customer_id": row["customer_id"],
            "merchant_id": row["merchant_id"],
            "amount": 12.5,
        }
        for name, row in (("one", first), ("another", second))
    )
    later = PAID_AT + timedelta(seconds=1)
    return {**one, "event_timestamp": PAID_AT.isoformat()}, {**another, "event_timestamp": later.isoformat()}


def amounts_of_the_week(lake: Lake, customer_id: str) -> list[float]:
    week = [(PAID_AT - timedelta(days=d)).date().isoformat() for d in range(1, 8)]
    return [
        r["amount"] for r in lake.read("transactions", week).to_pylist() if r["customer_id"] == customer_id
    ]


@contextmanager
def service(platform: Platform) -> Iterator[httpx.Client]:
    """`mlops serve` on event time, until the block ends."""
    port, log = free_port(), platform.folder / "serving.log"
    command = [sys.executable, "-m", "mlops_assets", "serve", "--clock", "event", "--port", str(port)]
    with log.open("wb") as handle, pytest.MonkeyPatch.context() as environment:
        environment.setenv("MLOPS_CONFIG", str(platform.config))
        process = subprocess.Popen(command, cwd=platform.folder, stdout=handle, stderr=subprocess.STDOUT)
    try:
        wait_until_ready(process, port, log)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield client
    finally:
        process.terminate()
        process.wait(30)


def health_of_version(client: httpx.Client, version: str, seconds: float = 60) -> dict[str, Any]:
    """What /health says once the version serves."""
    deadline = time.monotonic() + seconds
    while True:
        health: dict[str, Any] = client.get("/health").json()
        if health["model_version"] == version:
            return health
        assert time.monotonic() < deadline, health
        time.sleep(0.1)


def run_python(folder: Path, script: str, *words: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, words)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# X
