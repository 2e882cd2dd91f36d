"""Follows the registry's champion: fetch, verify, try, and only then swap one reference.

The release that serves goes on serving where any of it fails. The follower asks the registry in its own
thread.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from feature_repo.lake.files import write_whole
from feature_repo.times import DAY_US
from serving.champion_registry import ALIAS, DIGEST_TAG, Named, Registry, RegistryDown
from serving.contract.bundle import (
    BundleError,
    Inconclusive,
    Release,
    check_release,
    load_release,
    verify_digests,
)
from serving.contract.scorers.base import Scorer, ScorerError, load_scorer
from serving.errors import ServingError
from serving.settings import ServingSettings

log = logging.getLogger("serving.releases")

LAST_GOOD = "last_good.json"
DIGEST = re.compile("[0-9a-f]{64}")

# Gives the reasons why the home cannot serve a release. An empty list: the home can serve it.
StateCheck = Callable[[Release], list[str]]


@dataclass(frozen=True)
class Champion:
    """The version that serves, with its verified release and its scorer.

    A champion is swapped as a whole, so that one version alone makes each answer.
    """

    version: str
    digest: str
    release: Release
    scorer: Scorer

    @property
    def maturity_us(self) -> int:
        """After how many microseconds silence means negative."""
        return round(self.release.maturity_days * DAY_US)


class RefusedRelease(ServingError):
    """The version that the alias names must not serve.

    `for_good`: until the alias moves. Otherwise the version is tried again after a while.
    """

    def __init__(self, named: Named, why: str, for_good: bool = True) -> None:
        self.named, self.for_good = named, for_good
        super().__init__(why)


class Follower:
    """Keeps `current` at the registry's champion, from its own thread.

    `trouble` says in one line what is wrong; it is empty where nothing is. `asked` is set once the registry
    was asked for the first time, whatever came of it.
    """

    def __init__(
        self,
        settings: ServingSettings,
        registry: Registry,
        state_check: StateCheck,
        on_outcome: Callable[[str], None],
        seconds: Callable[[], float] = time.monotonic,
        warm_up: Callable[[Champion], None] = lambda champion: None,
    ) -> None:
        self._settings, self._registry, self._state_check, self._on_outcome = (
            settings,
            registry,
            state_check,
            on_outcome,
        )
        self._seconds, self._warm_up = seconds, warm_up
        self.current: Champion | None = None
        self.trouble = "the registry has not been asked yet"
        self.asked = threading.Event()
        self._refused: Named | None = None
        self._refused_until = math.inf
        self._stop = threading.Event()
        self._swap = threading.Lock()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Follow the registry from now on, in threads."""
        for work in (self._follow, self._fall_back_when_silent):
            thread = threading.Thread(target=work, name=f"releases-{work.__name__.strip('_')}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Let the threads end."""
        self._stop.set()

    def poll(self) -> None:
        """Ask the registry once, and swap if the alias names another version that is good."""
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
            self.asked.set()
            self._stop.wait(self._settings.poll_seconds)

    def _fall_back_when_silent(self) -> None:
        """A registry may hang instead of refusing. A cold start then takes its copy on disk after a while."""
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
        """Download beside the final place, verify, and move in one step.

        Another worker may do the same at the same time.
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
        try:
            scorer = load_scorer(release, directory)
        except ScorerError as error:
            raise BundleError(directory, str(error)) from error
        # The first explanation makes the tables, and is slow: no decision waits for it.
        scorer.contributions(np.full((1, len(scorer.features)), np.nan))
        champion = Champion(version, digest, release, scorer)
        self._warm_up(champion)
        return champion

    def _install(self, champion: Champion) -> None:
        with self._swap:
            self.current = champion
        self.trouble, self._refused = "", None
        self._on_outcome("swapped")
        log.info("serving version %s of %s", champion.version, champion.release.use_case)
        try:
            record = json.dumps({"version": champion.version, "digest": champion.digest})
            write_whole(self._settings.folder / LAST_GOOD, record.encode())
        except OSError as error:
            log.error(
                "%s cannot be written, a cold start without the registry would serve an older version: %s",
                LAST_GOOD,
                error,
            )

    def _take_last_good(self) -> None:
        """Serve the copy of the version that served last, if there is one and its digests hold."""
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
        """Log what is wrong once, and not at every poll."""
        if trouble != self.trouble:
            self.trouble = trouble
            log.warning("%s", trouble)


def _is_good(directory: Path, digest: str) -> bool:
    try:
        return verify_digests(directory) == digest
    except BundleError:
        return False
