"""Dagster's own processes as a test meets them: its console scripts, and a webserver that is asked in
GraphQL.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Collection
from pathlib import Path
from typing import Any

WEBSERVER_TIMEOUT_S = 120.0


def tool(name: str, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A console script of this environment, run as a person would."""
    command = [str(Path(sys.executable).with_name(name)), *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


def ask(port: int, query: str, variables: dict[str, Any]) -> dict[str, Any]:
    """One GraphQL request; errors of the query itself fail the test."""
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        told = json.loads(answer.read())
    assert "errors" not in told, told["errors"]
    data = told["data"]
    assert isinstance(data, dict)
    return data


def wait_until_loaded(
    port: int, webserver: subprocess.Popen[bytes], log: Path, assets: Collection[str]
) -> None:
    """Until the webserver knows the assets of the code location."""
    until = time.monotonic() + WEBSERVER_TIMEOUT_S
    while time.monotonic() < until:
        assert webserver.poll() is None, log.read_text()[-3000:]
        try:
            known = {
                "/".join(node["assetKey"]["path"])
                for node in ask(port, "{ assetNodes { assetKey { path } } }", {})["assetNodes"]
            }
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            known = set()
        if set(assets) <= known:
            return
        time.sleep(0.5)
    raise AssertionError(
        f"the webserver did not load the code location within {WEBSERVER_TIMEOUT_S:.0f} s:"
        f" {log.read_text()[-3000:]}"
    )
