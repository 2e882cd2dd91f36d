"""The other servers with the same model: how each starts, what it is sent, whether its scores are right.

A bare ASGI application and `mlflow models serve` run in the platform's own environment. MLServer and BentoML
have environments of their own, which `benchmarks/rivals/setup.sh` makes.
"""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .cells import WrongAnswers
from .prepared import Prepared
from .servers import Server, free_port, running

SOURCES = Path(__file__).parents[1] / "rivals"
HOW_TO_INSTALL = "benchmarks/rivals/setup.sh installs it"
Rows = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Rival:
    """A server: the route that scores, and the one that says whether it is ready.

    `body` makes a request of the features' names and some vectors. `scores` takes the scores out of an
    answer. `words` is the command for an interpreter, a port and a scratch folder. `python` names the
    environment, None the platform's own.
    """

    name: str
    path: str
    ready: str
    body: Callable[[Sequence[str], Rows], Any]
    scores: Callable[[Any], Sequence[float]]
    words: Callable[[Path, int, Path, Prepared], list[str]]
    python: str | None = None

    def interpreter(self, environments: Path) -> Path:
        """Python in the rival's environment."""
        return environments / self.python / "bin" / "python" if self.python else Path(sys.executable)

    @contextmanager
    def running(self, prepared: Prepared, environments: Path, scratch: Path) -> Iterator[Server]:
        """The server, once it is ready and has scored as the model does."""
        scratch.mkdir(parents=True, exist_ok=True)
        port = free_port()
        words = self.words(self.interpreter(environments), port, scratch, prepared)
        environment = {
            "MODEL": str(prepared.model),
            "PYTHONPATH": str(SOURCES),
            "BENTOML_HOME": str(scratch / "bentoml"),
            "BENTOML_DO_NOT_TRACK": "true",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "OMP_NUM_THREADS": "1",  # More make one row slower, and MLflow has no setting for it.
        }
        with running(words, port, scratch / f"{self.name}.log", scratch, environment) as server:
            server.wait_for(self.ready)
            self._check(server, prepared)
            yield server

    def _check(self, server: Server, prepared: Prepared) -> None:
        import lightgbm

        rows = prepared.vectors()[:3]
        expected = lightgbm.Booster(model_file=str(prepared.model)).predict(rows)
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        body = json.dumps(self.body(prepared.features, rows.tolist()))
        connection.request("POST", self.path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if answer.status != 200 or not np.allclose(self.scores(json.loads(content)), expected, rtol=1e-9):
            raise WrongAnswers(f"{self.name} answered {answer.status} {content[:300]!r}, expected {expected}")


def _asgi(python: Path, port: int, scratch: Path, prepared: Prepared) -> list[str]:
    return [str(python), "-m", "uvicorn", "asgi_app:app", "--port", str(port), "--no-access-log"]


def _mlflow(python: Path, port: int, scratch: Path, prepared: Prepared) -> list[str]:
    model = str(_mlflow_model(prepared))
    words = [str(python), "-m", "mlflow", "models", "serve", "--model-uri", model, "--port", str(port)]
    return [*words, "--env-manager", "local", "--workers", "1"]


def _mlserver(python: Path, port: int, scratch: Path, prepared: Prepared) -> list[str]:
    """In one process. Its inference workers would be processes beside it."""
    folder = scratch / "mlserver"
    folder.mkdir(exist_ok=True)
    settings = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": free_port(),
        "metrics_port": free_port(),
        "parallel_workers": 0,
        "debug": False,
    }
    model = {"name": "fraud", "implementation": "mlserver_runtime.BoosterModel"}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    return [str(python.with_name("mlserver")), "start", str(folder)]


def _bentoml(python: Path, port: int, scratch: Path, prepared: Prepared) -> list[str]:
    words = [str(python), "-m", "bentoml", "serve", "bentoml_service:Scoring", "--port", str(port)]
    return [*words, "--host", "127.0.0.1", "--working-dir", str(SOURCES)]


def _rows(names: Sequence[str], rows: Rows) -> dict[str, Any]:
    return {"rows": rows}


def _frame(names: Sequence[str], rows: Rows) -> dict[str, Any]:
    """As MLflow's documentation has it. Lists without names, to a model without a signature, are quicker."""
    return {"dataframe_split": {"columns": names, "data": rows}}


def _tensor(names: Sequence[str], rows: Rows) -> dict[str, Any]:
    shape = [len(rows), len(rows[0])]
    data = [value for row in rows for value in row]
    return {"inputs": [{"name": "features", "shape": shape, "datatype": "FP64", "data": data}]}


RIVALS = {
    rival.name: rival
    for rival in (
        Rival("asgi", "/", "/", _rows, lambda told: told["scores"], _asgi),
        Rival(
            "mlflow",
            "/invocations",
            "/ping",
            _frame,
            lambda told: told["predictions"],
            _mlflow,
        ),
        Rival(
            "mlserver",
            "/v2/models/fraud/infer",
            "/v2/models/fraud/ready",
            _tensor,
            lambda told: told["outputs"][0]["data"],
            _mlserver,
            "mlserver",
        ),
        Rival(
            "bentoml",
            "/score",
            "/readyz",
            _rows,
            lambda told: told,
            _bentoml,
            "bentoml",
        ),
    )
}


def _mlflow_model(prepared: Prepared) -> Path:
    """The model as MLflow saves it, with a signature as the platform's registry has one; made once."""
    folder = prepared.folder / "mlflow-model"
    if not folder.exists():
        import lightgbm
        import mlflow.lightgbm
        import pandas as pd
        from mlflow.models import infer_signature

        booster = lightgbm.Booster(model_file=str(prepared.model))
        rows = pd.DataFrame(prepared.vectors()[:3], columns=list(prepared.features))
        signature = infer_signature(rows, booster.predict(rows))
        mlflow.lightgbm.save_model(booster, str(folder), signature=signature, pip_requirements=["lightgbm"])
    return folder
