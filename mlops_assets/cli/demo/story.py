"""The demo: the whole loop on a simulated bank.

History, a first version, drift, a retraining that the sensor asks for, and a better version.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_assets.cli.demo.background import free_port, running, stopping_on_sigterm, wait_until_ready
from mlops_assets.cli.demo.bank import Bank
from mlops_assets.errors import PlatformError

if TYPE_CHECKING:
    from subprocess import Popen

    from dagster import DagsterInstance, DagsterRun

    from mlops_assets.resources.environments import Settings
    from mlops_assets.resources.registry import ModelRegistry, Version

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "docs" / "demo.toml"
HISTORY_DAYS = 60
LAST_DAY_AFTER = 7  # Served days after the swap. Some of them mature
MOST_SERVED_DAYS = 34  # The story takes about 22. The demo fails on a bank where no version ever passes
RETRAINING_TIMEOUT_S = 240.0
MARKER = ".mlops-demo"
SENSOR, SENSOR_TAG = "retrain_on_drift", "dagster/sensor_name"


class DemoFailed(PlatformError):
    """The story did not come to its end. The message names the step where it stopped."""


@dataclass
class Story:
    """The events of the story so far, in simulated days."""

    injected: date
    detected: str | None = None
    run: DagsterRun | None = None
    swapped: str | None = None
    retrainings: int = 0


@dataclass(frozen=True)
class Beside:
    """The two processes beside the demo, and the port of the service."""

    daemon: Popen[bytes]
    service: Popen[bytes]
    port: int


def run_demo(home: Path) -> dict[str, Any]:
    """Play the loop in an emptied `home`, and write `summary.json` there. Returns the summary.

    Raises `DemoFailed` where the story stops early.
    """
    started = time.monotonic()
    home = home.absolute()
    _empty(home)
    os.environ.update(MLOPS_HOME=str(home), MLOPS_CONFIG=str(CONFIG), DAGSTER_HOME=str(home / "dagster"))
    from dagster import DagsterInstance

    from mlops_assets.cli.demo.summary import summarize, tell
    from mlops_assets.cli.instance import prepare_instance
    from mlops_assets.definitions import settings
    from mlops_assets.resources.registry import registry_of

    source = simulated_bank()
    story = Story(injected=min(scenario.first for scenario in source.config.scenarios))
    first_served = settings.time.start + timedelta(days=HISTORY_DAYS)
    prepare_instance(home)
    registry = registry_of(settings)
    with DagsterInstance.get() as instance:
        before = _first_version(instance, settings, registry, first_served)
        with _beside(settings) as beside:
            bank = Bank(beside.port, source.investigations)
            until = _serve_days(instance, registry, source, bank, story, beside, first_served)
            same_process = beside.service.poll() is None
        after = registry.champion()
        if story.run is None or story.detected is None or story.swapped is None or after is None:
            raise DemoFailed(
                f"drift was detected on {story.detected}, {story.retrainings} retrainings ran, and no version"
                f" passed the gate by {until - timedelta(days=1)}"
            )
        summary = summarize(
            settings,
            bank,
            story.run,
            story.injected.isoformat(),
            story.detected,
            story.swapped,
            before,
            after,
            until,
        )
    summary["serving"]["swapped_without_restart"] &= same_process
    summary["seconds"] = round(time.monotonic() - started, 1)
    (home / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    tell(home, settings, summary, story.swapped)
    if bank.failed or summary["parity"]["mismatches"]:
        raise DemoFailed(
            f"{bank.failed} requests failed ({bank.first_failure}), {summary['parity']['mismatches']} vectors"
            " do not agree"
        )
    return summary


def _first_version(
    instance: DagsterInstance, settings: Settings, registry: ModelRegistry, first_served: date
) -> Version:
    """Make the days before the first served day, and train the version that serves first."""
    from mlops_assets.cli.instance import run_job
    from mlops_assets.pipeline import BACKFILL, ONLINE, RETRAINING

    start, last = settings.time.start, first_served - timedelta(days=1)
    _say(f"history: {start} to {last}, {HISTORY_DAYS} days")
    run_job(BACKFILL, instance, days=(start.isoformat(), last.isoformat()))
    run_job(ONLINE, instance)
    _say(f"the first version, trained as of {first_served}")
    run_job(RETRAINING, instance, day=first_served.isoformat())
    if (made := registry.champion()) is None:
        raise DemoFailed("the gate refused the first version; see `mlops status`")
    return made


@contextmanager
def _beside(settings: Settings) -> Iterator[Beside]:
    """The Dagster daemon and the scoring service, for as long as the block runs."""
    port, logs = free_port(), settings.home / "logs"
    daemon = ["dagster._daemon", "run", "-m", "mlops_assets.definitions"]
    service = ["serving", "--home", str(settings.home), "--name", settings.use_case, "--port", str(port)]
    service += ["--clock", "event", "--poll", "0.5"]
    with (
        stopping_on_sigterm(),
        running("the Dagster daemon", daemon, logs / "daemon.log") as one,
        running("the scoring service", service, logs / "serving.log") as other,
    ):
        ready = wait_until_ready(other, port, logs / "serving.log")
        _say(f"the service answers on port {port} with version {ready['model_version']}")
        yield Beside(one, other, port)


def _serve_days(
    instance: DagsterInstance,
    registry: ModelRegistry,
    source: Any,
    bank: Bank,
    story: Story,
    beside: Beside,
    first_served: date,
) -> date:
    """Play day after day until some days after the swap. Returns the day after the last played day."""
    from mlops_assets.cli.instance import run_job
    from mlops_assets.pipeline import BUSINESS, DAILY, RETRAINING

    day, last = first_served, first_served + timedelta(days=MOST_SERVED_DAYS)
    while day <= last:
        bank.play(day, source.transactions(day, day), source.labels(day, day))
        run_job(DAILY, instance, day=day.isoformat())
        run_job(BUSINESS, instance, day=(day + timedelta(days=1)).isoformat())
        drifted = _drifted(instance, day)
        mark = "  <- the world changed" if day == story.injected else ""
        _say(f"{day}: {bank.requests:,} requests so far, {'drift' if drifted else 'quiet'}{mark}")
        if drifted and story.swapped is None:
            story.detected = story.detected or day.isoformat()
            if _follow_sensor(instance, RETRAINING, story, beside.daemon.pid) and _swapped(
                registry, bank, story
            ):
                story.swapped = day.isoformat()
                last = day + timedelta(days=LAST_DAY_AFTER)
        day += timedelta(days=1)
    return day


def _swapped(registry: ModelRegistry, bank: Bank, story: Story) -> bool:
    """Whether the service swapped to a version that was measured on the changed world.

    A version that was measured on earlier days may be better, but it does not end the story.
    """
    now = registry.champion()
    if now is None or now.version == bank.versions[-1]:
        _say("the gate refused the candidate: it is not proven to be better yet")
        return False
    _wait_for_swap(bank, now.version)
    _say(f"version {now.version} passed the gate; the running service swapped to it")
    return now.tags["last_day"] >= story.injected.isoformat()


def simulated_bank() -> Any:
    """The bank of the demo's configuration, with its truth, which only the demo knows.

    The platform sees only what the bank sends.
    """
    import tomllib

    from mlops_assets.use_cases.fraud.simulator import BankSource, SimulatorConfig

    return BankSource(
        SimulatorConfig.model_validate(tomllib.loads(CONFIG.read_text(encoding="utf-8"))["source"])
    )


def _empty(home: Path) -> None:
    """Empty the home. `DemoFailed` for a folder that no demo made."""
    if home.exists() and any(home.iterdir()):
        if not (home / MARKER).exists():
            raise DemoFailed(
                f"{home} is not a folder that the demo made, so it is not emptied; name another with --home"
            )
        shutil.rmtree(home)
    home.mkdir(parents=True, exist_ok=True)
    (home / MARKER).touch()


def _drifted(instance: DagsterInstance, day: date) -> bool:
    """Whether a drift check of the day failed."""
    from mlops_assets.graph.checks import DRIFT_CHECKS
    from mlops_assets.sensors.retraining import Seen, failed_checks

    return any(
        one.day == day.isoformat()
        for check in DRIFT_CHECKS
        for one in failed_checks(instance, check, Seen())[1]
    )


def _follow_sensor(instance: DagsterInstance, job: str, story: Story, daemon: int) -> bool:
    """Wait until the sensor has seen the failed checks, and until the retraining that it asked for has ended.

    Returns whether there was a retraining.
    """
    from dagster import RunsFilter

    until = time.monotonic() + RETRAINING_TIMEOUT_S
    before = story.retrainings
    while time.monotonic() < until:
        runs = [
            run for run in instance.get_runs(RunsFilter(job_name=job)) if run.tags.get(SENSOR_TAG) == SENSOR
        ]
        finished = all(run.is_finished for run in runs)
        if len(runs) > before and finished:
            story.retrainings, story.run = len(runs), runs[0]
            if not runs[0].is_success:
                raise DemoFailed(f"the retraining {runs[0].run_id} failed; its log is in the UI")
            return True
        if len(runs) == before and _sensor_has_seen_all(instance):
            return False
        time.sleep(0.5)
    raise DemoFailed(
        f"the sensor asked for nothing within {RETRAINING_TIMEOUT_S:.0f} s (the daemon is process {daemon})"
    )


def _sensor_has_seen_all(instance: DagsterInstance) -> bool:
    """Whether the sensor's cursor is past every failed record."""
    from mlops_assets.graph.checks import DRIFT_CHECKS
    from mlops_assets.sensors.retraining import Cursor, Seen, failed_checks

    states = [state for state in instance.all_instigator_state() if state.instigator_name == SENSOR]
    if not states or states[0].instigator_data is None:
        return False
    cursor = Cursor.from_json(getattr(states[0].instigator_data, "cursor", None))
    return not any(
        failed_checks(instance, check, cursor.seen.get(check.to_user_string(), Seen()))[1]
        for check in DRIFT_CHECKS
    )


def _wait_for_swap(bank: Bank, version: str) -> None:
    until = time.monotonic() + 60
    while str(bank.health()["model_version"]) != version:
        if time.monotonic() > until:
            raise DemoFailed(f"the service did not swap to version {version} within a minute")
        time.sleep(0.2)


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)
