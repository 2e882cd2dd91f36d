"""docs/use-cases.md is walked as it is printed: from its CSV files and declarations to a served score."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlops_assets.cli.demo.background import free_port, wait_until_ready

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "use-cases.md").read_text()
WALK = PAGE.split("## From a CSV of your own to a served score\n")[1].split("\n## ")[0]
FILES = ("make_csv.py", "returns.toml", "returns/case.py", "returns/features.py")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", WALK, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """The commands of the walk, one a line; a body of JSON goes over several lines."""
    (console,) = blocks("console")
    return re.sub(r"\n {2,}", " ", console).splitlines()


class Walk:
    """The walk in an empty folder, up to the service."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        written = [*blocks("python"), *blocks("toml")]
        named = {text.splitlines()[0].removeprefix("# "): text for text in written}
        assert sorted(named) == sorted(FILES), "each block begins with the name of its file"
        for name, text in named.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
        export, *self.lines = commands()
        variables = dict(word.split("=") for word in export.removeprefix("export ").split())
        binaries = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": binaries, **variables}
        self.log = folder / "serving.log"

    def run(self, line: str) -> str:
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, (line, done.stderr[-3000:])
        return done.stdout

    def run_all_before_serving(self) -> dict[str, str]:
        """What each command printed, by its first words."""
        before = [line for line in self.lines if not line.startswith(("curl", "mlops serve"))]
        return {" ".join(line.split()[:2]): self.run(line) for line in before}

    def answers(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The requests of the walk, each with its answer by the service."""
        (serve,) = [line for line in self.lines if line.startswith("mlops serve")]
        port = free_port()
        words = [*serve.removesuffix(" &").split(), "--port", str(port)]
        with self.log.open("wb") as output:
            process = subprocess.Popen(
                words, cwd=self.folder, env=self.environment, stdout=output, stderr=output
            )
        try:
            wait_until_ready(process, port, self.log)
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                for line in self.lines:
                    if line.startswith("curl"):
                        yield _asked(client, line)
        finally:
            process.terminate()
            process.wait(30)


def _asked(client: httpx.Client, line: str) -> tuple[str, dict[str, Any]]:
    path, body = re.findall(r"http://127\.0\.0\.1:8000(\S+)(?:.* -d '(.*)')?", line)[0]
    answer = client.post(path, json=json.loads(body)) if body else client.get(path)
    assert answer.status_code == 200, (line, answer.text)
    return path, dict(answer.json())


def test_the_walk_of_the_page_ends_with_a_served_score(tmp_path: Path) -> None:
    walk = Walk(tmp_path)
    told = walk.run_all_before_serving()
    assert "0 would be quarantined" in told["mlops doctor"]
    assert "verdict: promoted" in told["mlops train"]
    answers = dict(walk.answers())
    assert answers["/health"]["model_version"] == "1"
    assert {"event_price", "event_weekday", "article_return_rate_28d"} <= set(answers["/health"]["features"])
    scored = answers["/predict"]
    assert 0.0 < scored["score"] < 1.0
    assert scored["decision"] in ("SEND", "CALL")
    assert answers["/labels"]["labels"] == [{"order_id": "O99001", "known": True, "duplicate": False}]
