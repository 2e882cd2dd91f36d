"""The scoring service as a process of its own, on a copy of the prepared home."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .prepared import ROOT, Prepared
from .servers import Server, free_port, running, workers_of


@dataclass
class Service:
    """The running service with so many workers, its home, and the release that all of them serve."""

    prepared: Prepared
    server: Server
    home: Path
    workers: int
    release: str

    @property
    def database(self) -> Path:
        """The service's store."""
        return self.home / "serving" / "serving.db"

    def serve(self, release: str) -> None:
        """Let each worker serve a release of the prepared ones, by its name."""
        if release != self.release:
            told = f"serving version {self.prepared.versions[release]} of"
            before = self.server.times_in_log(told)
            self.prepared.promote(self.home, release)
            self.server.wait_for_log(told, before + self.workers)
            self.release = release

    def worker_processes(self) -> list[int]:
        """The processes of several workers."""
        return workers_of(self.server.process.pid)


@contextmanager
def service_on(prepared: Prepared, release: str, workers: int, name: str) -> Iterator[Service]:
    """The service after a cold start, from the moment at which all its workers are ready."""
    scratch = prepared.scratch
    home, port = prepared.copy_home(scratch / f"home-{name}"), free_port()
    version = prepared.promote(home, release)
    words = [sys.executable, "-m", "serving", "--home", str(home), "--lake", str(prepared.home / "lake")]
    words += ["--port", str(port), "--workers", str(workers)]
    # Event time moves on by months, and a service that starts again must not mind.
    words += ["--clock", "event", "--when-far", "warn"]
    log = scratch / f"service-{name}.log"
    try:
        with running(words, port, log, ROOT, {"PYTHONPATH": str(ROOT)}) as server:
            server.wait_for("/health/ready")
            server.wait_for_log(f"serving version {version} of", workers)
            yield Service(prepared, server, home, workers, release)
    finally:
        shutil.rmtree(home)
