"""Follows the registry's champion: fetch, verify, try, and only then swap one reference; whatever goes wrong,
the last good release goes on.

MLflow is imported in the follower's own thread and only read. A registry that does not exist yet is waited
for, never created.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import shutil
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlparse

from serving.contract.bundle import (
    BundleError,
    Inconclusive,
    Release,
    check_release,
    load_release,
    verify_digests,
)
from serving.contract.scorers.lightgbm import Scorer
from serving.errors import ServingError
from serving.settings import ServingSettings

log = logging.getLogger("serving.releases")

ALIAS = "champion"
BUNDLE = "bundle"  # the artifact directory of the version's run
DIGEST_TAG = "bundle_digest"
SQLITE = "sqlite:///"
LAST_GOOD = "last_good.json"
DIGEST = re.compile("[0-9a-f]{64}")

os.environ.setdefault(
    "MLFLOW_DISABLE_TELEMETRY", "true"
)  # read when MLflow is imported; its other switch, DO_NOT_TRACK, does not know the usual "1"

# Reasons why the online state cannot serve a plan; none: it can.
StateCheck = Callable[[Release], list[str]]


class RegistryDown(ServingError):
    """The registry cannot be asked just now, or does not exist yet."""


@dataclass(frozen=True)
class Named:
    """A version of the registered model, as the registry names it."""

    version: str
    run_id: str
    digest: str


@dataclass(frozen=True)
class Champion:
    """What serves: a version with its verified release, ready to score.

    Swapped as a whole, so that a response is of one generation.
    """

    version: str
    digest: str
    release: Release
    scorer: Scorer

    @property
    def maturity_us(self) -> int:
        return round(self.release.maturity_days * 86_400_000_000)


class RefusedRelease(ServingError):
    """The version that the alias names must not serve: for good, until the alias moves, or only now."""

    def __init__(self, named: Named, why: str, for_good: bool = True) -> None:
        self.named, self.for_good = named, for_good
        super().__init__(why)


class Registry(Protocol):
    """What the follower needs of a model registry."""

    def champion(self) -> Named | None:
        """The version that the alias names; None where it names none. `RegistryDown` when it cannot say."""

    def download(self, named: Named, into: Path) -> Path:
        """Fetch the version's bundle below `into`; returns its directory."""


class MlflowRegistry:
    """The registry in MLflow, read-only."""

    def __init__(self, uri: str, model: str) -> None:
        self._uri, self._model = uri, model
        self._client: Any = None

    def champion(self) -> Named | None:
        # Asked before every use of the client, which would make an empty registry where one was moved away.
        if self._uri.startswith(SQLITE) and not _has_champion(
            Path(self._uri.removeprefix(SQLITE)), self._model
        ):
            return None
        client = self._connect()
        from mlflow.exceptions import MlflowException

        try:
            version = client.get_model_version_by_alias(self._model, ALIAS)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise RegistryDown(_one_line(error)) from error
        except Exception as error:
            raise RegistryDown(_one_line(error)) from error
        return Named(str(version.version), version.run_id or "", version.tags.get(DIGEST_TAG, ""))

    def download(self, named: Named, into: Path) -> Path:
        from mlflow.artifacts import download_artifacts

        try:
            place = f"{self._client.get_run(named.run_id).info.artifact_uri}/{BUNDLE}"
            if self._uri.startswith(SQLITE) and not urlparse(place).scheme:
                place = str(
                    Path(self._uri.removeprefix(SQLITE)).parent / place
                )  # relative to the database, wherever the home is
            return Path(download_artifacts(artifact_uri=place, dst_path=str(into), tracking_uri=self._uri))
        except Exception as error:
            raise RegistryDown(
                f"version {named.version}: its bundle cannot be fetched ({_one_line(error)})"
            ) from error

    def _connect(self) -> Any:
        if self._client is None:
            os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
            try:
                from mlflow import MlflowClient

                self._client = MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)
            except Exception as error:
                raise RegistryDown(_one_line(error)) from error
        return self._client


class Follower:
    """Keeps `current` at the registry's champion, from a thread of its own."""

    def __init__(
        self,
        settings: ServingSettings,
        registry: Registry,
        state_check: StateCheck,
        on_outcome: Callable[[str], None],
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._registry, self._state_check, self._on_outcome = (
            settings,
            registry,
            state_check,
            on_outcome,
        )
        self._seconds = seconds
        self.current: Champion | None = None
        self.trouble = "the registry has not been asked yet"
        self._refused: Named | None = None
        self._refused_until = math.inf
        self._stop = threading.Event()
        self._swap = threading.Lock()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        for work in (self._follow, self._fall_back_when_silent):
            thread = threading.Thread(target=work, name=f"releases-{work.__name__.strip('_')}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        self._stop.set()

    def poll(self) -> None:
        """Ask once, and swap if the alias has moved to something good."""
        try:
            named = self._registry.champion()
            if named is None:
                self._say(f"the registry names no {ALIAS} of {self._settings.use_case}")
            elif not self._is_refused(named) and not self._is_current(named):
                self._install(self._prepare(named))
        except RegistryDown as error:
            self._say(f"the registry is down: {error}")
        except RefusedRelease as error:
            self._refused = error.named
            self._refused_until = (
                math.inf if error.for_good else self._seconds() + self._settings.limits.retry_s
            )
            self._on_outcome("refused")
            how = "refused" if error.for_good else f"refused for {self._settings.limits.retry_s:g} s"
            self._say(f"version {error.named.version} is {how}, {self._serving()}: {error}")
        if self.current is None:
            self._take_last_good()

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                self.poll()
            except Exception:
                log.exception("following the registry failed, %s", self._serving())
            self._stop.wait(self._settings.poll_seconds)

    def _fall_back_when_silent(self) -> None:
        """A registry that hangs instead of refusing must not keep a cold start from its copy on disk."""
        if not self._stop.wait(self._settings.limits.registry_patience_s) and self.current is None:
            self._take_last_good()

    def _is_current(self, named: Named) -> bool:
        return self.current is not None and (self.current.version, self.current.digest) == (
            named.version,
            named.digest,
        )

    def _is_refused(self, named: Named) -> bool:
        return named == self._refused and self._seconds() < self._refused_until

    def _prepare(self, named: Named) -> Champion:
        if not DIGEST.fullmatch(named.digest):
            raise RefusedRelease(named, f"its tag {DIGEST_TAG} is no digest: {named.digest!r}")
        directory = self._settings.folder / "bundles" / named.digest
        try:
            if not _is_good(directory, named.digest):
                self._fetch(named, directory)
            return self._load(named.version, named.digest, directory)
        except BundleError as error:
            raise RefusedRelease(named, str(error), for_good=not isinstance(error, Inconclusive)) from error

    def _fetch(self, named: Named, directory: Path) -> None:
        """Download beside the final place, verify, and move in one step; another worker may have done the
        same meanwhile.
        """
        directory.parent.mkdir(parents=True, exist_ok=True)
        temporary = directory.parent / f".{named.digest}.{uuid.uuid4().hex}"
        temporary.mkdir()
        try:
            fetched = self._registry.download(named, temporary)
            if (actual := verify_digests(fetched)) != named.digest:
                raise BundleError(
                    f"version {named.version}",
                    f"its bundle has the digest {actual[:12]}…, its tag says {named.digest[:12]}…",
                )
            if directory.exists() and not _is_good(directory, named.digest):
                shutil.rmtree(directory, ignore_errors=True)
            with contextlib.suppress(OSError):
                fetched.rename(directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _load(self, version: str, digest: str, directory: Path) -> Champion:
        if (actual := verify_digests(directory)) != digest:
            raise BundleError(directory, f"its digest is {actual[:12]}…, expected {digest[:12]}…")
        release = load_release(directory)
        if release.use_case != self._settings.use_case:
            raise BundleError(
                directory, f"it is for {release.use_case}, this service is for {self._settings.use_case}"
            )
        if reasons := self._state_check(release):
            raise Inconclusive(directory, f"the online state cannot serve it: {'; '.join(reasons)}")
        check_release(directory, self._settings.limits.check_timeout_s)
        return Champion(version, digest, release, Scorer(release.model_text, release.calibrator))

    def _install(self, champion: Champion) -> None:
        with self._swap:
            self.current = champion
        self.trouble, self._refused = "", None
        self._on_outcome("swapped")
        log.info("serving version %s of %s", champion.version, champion.release.use_case)
        try:
            _write_whole(
                self._settings.folder / LAST_GOOD,
                json.dumps({"version": champion.version, "digest": champion.digest}),
            )
        except OSError as error:
            log.error(
                "%s cannot be written, a cold start without the registry would serve an older version: %s",
                LAST_GOOD,
                error,
            )

    def _take_last_good(self) -> None:
        """The verified copy of what served last, if there is one and it is still whole."""
        path = self._settings.folder / LAST_GOOD
        try:
            record = json.loads(path.read_text())
            version, digest = str(record["version"]), str(record["digest"])
            champion = self._load(version, digest, self._settings.folder / "bundles" / digest)
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, BundleError) as error:
            self._say(f"the copy of the last good release cannot serve: {error}")
            return
        with self._swap:
            if self.current is None:
                self.current = champion
                self._on_outcome("fallback")
                log.warning(
                    "serving version %s of %s from the copy on disk", version, champion.release.use_case
                )

    def _serving(self) -> str:
        return f"version {self.current.version} goes on" if self.current else "nothing is served yet"

    def _say(self, trouble: str) -> None:
        """Log what is wrong once, not at every poll."""
        if trouble != self.trouble:
            self.trouble = trouble
            log.warning("%s", trouble)


def _has_champion(database: Path, model: str) -> bool:
    """Whether an SQLite registry exists and names a champion, asked read-only: MLflow's own client would
    create or migrate what it finds.
    """
    if not database.exists():
        return False
    try:
        with contextlib.closing(
            sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True, timeout=5)
        ) as connection:
            query = "SELECT 1 FROM registered_model_aliases WHERE name = ? AND alias = ?"
            return connection.execute(query, (model, ALIAS)).fetchone() is not None
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return False
        raise RegistryDown(_one_line(error)) from error
    except sqlite3.DatabaseError as error:
        raise RegistryDown(_one_line(error)) from error


def _is_good(directory: Path, digest: str) -> bool:
    try:
        return verify_digests(directory) == digest
    except BundleError:
        return False


def _write_whole(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("x") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
