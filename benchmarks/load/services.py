"""The scoring service as a process of its own, on a copy of the prepared home."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from .prepared import ROOT, Prepared
from .servers import Server, free_port, running


@dataclass(frozen=True)
class Service:
    """The running service with so many workers, and its home."""

    prepared: Prepared
    server: Server
    home: Path
    workers: int

    @property
    def database(self) -> Path:
        """The service's store."""
        return self.home / "serving" / "serving.db"

    def decide(self, decisions: str) -> None:
        """Let each worker serve the release with these decisions."""
        version = self.prepared.promote(self.home, decisions)
        self.server.wait_for_log(f"serving version {version} of", self.workers)

    def worker_processes(self) -> list[int]:
        """The processes of several workers. Python's own resource tracker is a child too."""
        children = psutil.Process(self.server.process.pid).children()
        return [child.pid for child in children if "spawn_main" in " ".join(child.cmdline())]


@contextmanager
def service_on(prepared: Prepared, decisions: str, workers: int, name: str) -> Iterator[Service]:
    """The service after a cold start, from the moment at which a worker is ready."""
    scratch = prepared.scratch
    home, port = prepared.copy_home(scratch / f"home-{name}"), free_port()
    prepared.promote(home, decisions)
    words = [sys.executable, "-m", "serving", "--home", str(home), "--lake", str(prepared.home / "lake")]
    words += ["--port", str(port), "--workers", str(workers), "--poll", "0.5"]
    # Event time moves on by months, and a service that starts again must not mind.
    words += ["--clock", "event", "--when-far", "warn"]
    log = scratch / f"service-{name}.log"
    with running(words, port, log, ROOT, {"PYTHONPATH": str(ROOT)}) as server:
        server.wait_for("/health/ready")
        yield Service(prepared, server, home, workers)
    shutil.rmtree(home)
