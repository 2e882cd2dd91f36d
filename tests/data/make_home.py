"""Make a small home with the code of an earlier commit, and pack it: see README.md beside this file.

python tests/data/make_home.py CHECKOUT OUT.tar.gz, with PYTHONPATH=CHECKOUT
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

FIRST, LAST, AS_OF = "2025-03-01", "2025-03-21", ("2025-03-20", "2025-03-21")
# What is large and made again when it is needed, and Feast's registry, which names places of the machine.
LEFT_OUT = (
    "dagster",
    "feast",
    "lake/customer_stats",
    "lake/merchant_stats",
    "lake/merchant_activity",
    "lake/training_set",
    "serving/bundles",
)
CONFIG = """
[time]
start = 2025-03-01
end = 2025-04-30

[source]
kind = "simulator"
start = 2025-03-01
customers = 120
merchants = 60
seed = 3
label_median_hours = 14.0

[verdicts]
maturity_days = 2

[model]
holdout_days = 5
train_days = 12
warm_up_days = 0

[recipe]
max_rounds = 20
legitimate_share = 1.0
min_sum_hessian_in_leaf = 1.0
lambda_l2 = 5.0
num_threads = 1

[gate]
min_positives = 1
min_gain = -1.0
max_money_loss_share = 1.0
max_calibration_error = 100.0
"""


def main() -> int:
    checkout, out = Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "mlops.toml").write_text(CONFIG)
        mlops(checkout, place, "backfill", "--from", FIRST, "--to", LAST)
        for as_of in AS_OF:
            told = json.loads(mlops(checkout, place, "train", "--as-of", as_of, "--json").splitlines()[-1])
            if told["verdict"] != "promoted":  # So small a bank proves nothing to the gate
                mlops(checkout, place, "promote", told["version"], "--reason", "a version for a test")
        answers = served(checkout, place)
        (place / "answers.json").write_text(json.dumps(answers, indent=1) + "\n")
        pack(place, out)
    print(f"{out}: {out.stat().st_size:,} bytes")
    return 0


def served(checkout: Path, place: Path) -> list[dict[str, Any]]:
    """What the service answers to six payments of the day after the last one, two of them labelled."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["-m", "mlops_assets", "serve", "--port", str(port), "--clock", "event"]
    service = subprocess.Popen([sys.executable, *words], cwd=place, env=environment(checkout, place))
    try:
        until = time.monotonic() + 120
        while not is_ready(port):
            if time.monotonic() > until or service.poll() is not None:
                raise SystemExit("the service did not start")
            time.sleep(0.3)
        made = []
        for number in range(6):
            asked = {
                "transaction": {
                    "transaction_id": f"before-{number}",
                    "event_timestamp": f"2025-03-22T0{number}:00:00Z",
                    "customer_id": str(number % 3),
                    "merchant_id": str(number),
                    "amount": 10.0 + 400 * number,
                }
            }
            made.append({"asked": asked, "answer": post(port, "/predict", asked)})
        for number in (1, 2):
            label = {
                "transaction_id": f"before-{number}",
                "is_fraud": number == 1,
                "label_timestamp": "2025-03-22T12:00:00Z",
            }
            post(port, "/labels", {"labels": [label]})
        return made
    finally:
        service.terminate()
        service.wait(30)


def mlops(checkout: Path, place: Path, *words: str) -> str:
    command = [sys.executable, "-m", "mlops_assets", *words]
    done = subprocess.run(
        command, cwd=place, env=environment(checkout, place), stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def environment(checkout: Path, place: Path) -> dict[str, str]:
    own = {
        "MLOPS_HOME": str(place / "home"),
        "MLOPS_CONFIG": str(place / "mlops.toml"),
        "PYTHONPATH": str(checkout),
        "MLOPS_SERVING_AUTH": "none",
    }
    return {**os.environ, **own}


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def post(port: int, path: str, body: object) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return dict(json.loads(answer.read()))


def pack(place: Path, out: Path) -> None:
    """Pack the home without what is large and never read again: see README.md."""
    home = place / "home"
    for folder in LEFT_OUT:
        shutil.rmtree(home / folder)
    for picture in home.rglob("*.png"):
        picture.unlink()
    forget_the_machine(home / "mlflow" / "mlflow.db")
    with closing(sqlite3.connect(home / "serving" / "serving.db", isolation_level=None)) as connection:
        connection.execute("VACUUM")
    with tarfile.open(out, "w:gz", compresslevel=9) as archive:
        for name in ("mlops.toml", "answers.json", "home"):
            archive.add(place / name, name, filter=anonymous)


def forget_the_machine(database: Path) -> None:
    """MLflow notes the user, the machine and the command of each run and model."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("UPDATE runs SET user_id = 'nobody', source_name = ''")
        for key in ("mlops/host", "mlflow.user", "mlflow.source.name"):
            for table, name, value in (
                ("tags", "key", "value"),
                ("logged_model_tags", "tag_key", "tag_value"),
            ):
                connection.execute(f"UPDATE {table} SET {value} = 'elsewhere' WHERE {name} = ?", (key,))
        connection.execute("VACUUM")


def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without the user and the time of whoever makes it."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    sys.exit(main())
