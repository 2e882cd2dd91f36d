"""What a person is told of a failure, whatever chain of exceptions stands behind it."""

import ast
import builtins
import gzip
import sqlite3
import traceback
from collections.abc import Callable
from contextlib import closing
from datetime import date
from itertools import pairwise
from pathlib import Path

import pytest
from dagster import AssetsDefinition, DagsterExecutionInterruptedError, asset, materialize
from dagster._utils.error import SerializableErrorInfo
from sqlalchemy.exc import OperationalError

import mlops_assets
from feature_repo.engine.plan import FeaturePlan
from feature_repo.lake.datasets import LakeError
from feature_repo.online.sqlite.rebuild import OnlineRebuild, RebuildError
from mlops_assets.cli.command_line import main
from mlops_assets.cli.platform import CommandError
from mlops_assets.core.data.base import SourceError
from mlops_assets.errors import is_interrupted, told
from mlops_assets.resources.config_file import ConfigError
from mlops_assets.sources.source_kinds import open_source
from mlops_assets.use_cases.fraud.case import FRAUD

CUT_OFF = "Compressed file ended before the end-of-stream marker was reached"


def caused(*errors: BaseException) -> BaseException:
    """The first of them, raised from the second, that from the third."""
    for outer, inner in pairwise(errors):
        outer.__cause__ = inner
    return errors[0]


def handled(*errors: BaseException) -> BaseException:
    """The first of them, raised while the second was being handled, and so on."""
    for outer, inner in pairwise(errors):
        outer.__context__ = inner
    return errors[0]


def bare(error: BaseException) -> BaseException:
    """As `raise … from None` leaves it."""
    error.__suppress_context__ = True
    return error


TABLE: dict[str, tuple[Callable[[], BaseException], str]] = {
    "ours alone": (lambda: LakeError("lake/x: nothing there"), "lake/x: nothing there"),
    "ours on several lines": (lambda: CommandError("2 problems\none\ntwo"), "2 problems one two"),
    "ours without a message": (lambda: CommandError(), "CommandError without a message"),
    "a library's alone": (lambda: KeyError("amount"), "KeyError: 'amount'"),
    "a library's without a message": (lambda: EOFError(), "EOFError: no message"),
    "no ours: the innermost": (
        lambda: caused(RuntimeError("outer"), OSError(28, "No space left on device")),
        "OSError: No space left on device",
    ),
    "no ours: what was merely handled explains nothing": (
        lambda: handled(RuntimeError("outer"), KeyError("x")),
        "RuntimeError: outer",
    ),
    "the library's message stands in ours": (
        lambda: caused(SourceError(f"a.csv.gz: cannot be read ({CUT_OFF})"), EOFError(CUT_OFF)),
        f"a.csv.gz: cannot be read ({CUT_OFF})",
    ),
    "its words stand in ours": (
        lambda: caused(
            CommandError("home cannot be written to (No space left on device)"),
            OSError(28, "No space left on device", "home/.probe.1"),
        ),
        "home cannot be written to (No space left on device)",
    ),
    "its message adds something": (
        lambda: caused(LakeError("part.parquet: cannot be read"), OSError(5, "Input/output error")),
        "part.parquet: cannot be read (Input/output error)",
    ),
    "its one word comes with its type": (
        lambda: caused(SourceError("a.csv: bad header"), KeyError("amount")),
        "a.csv: bad header (KeyError: 'amount')",
    ),
    "its type where it says nothing": (
        lambda: caused(SourceError("a.csv.gz: is cut off"), EOFError()),
        "a.csv.gz: is cut off (EOFError)",
    ),
    "ours over ours over a library's": (
        lambda: caused(
            CommandError("as of 2026-03-01: a.csv: no time"),
            SourceError("a.csv: no time"),
            ValueError("no time"),
        ),
        "as of 2026-03-01: a.csv: no time",
    ),
    "a library's over ours": (
        lambda: caused(RuntimeError("op failed"), SourceError("a.csv: no header")),
        "a.csv: no header",
    ),
    "tidying up failed over ours": (
        lambda: handled(OSError(16, "Device or resource busy"), LakeError("x: damaged")),
        "x: damaged",
    ),
    "ours, while a library's was handled": (
        lambda: handled(RebuildError("another rebuild is running"), BlockingIOError(11, "x y")),
        "another rebuild is running",
    ),
    "ours from None": (lambda: bare(handled(LakeError("x: damaged"), KeyError("y"))), "x: damaged"),
    "a database's, without its statement": (
        lambda: OperationalError(
            "INSERT INTO event_logs", {"event": "x" * 10_000}, Exception("database or disk is full")
        ),
        "OperationalError: database or disk is full",
    ),
    "a long one of a library is cut": (lambda: ValueError("x " * 10_000), f"ValueError: {'x ' * 200} …"),
}


@pytest.mark.parametrize(("made", "line"), TABLE.values(), ids=TABLE)
def test_the_outermost_error_of_ours_is_told(made: Callable[[], BaseException], line: str) -> None:
    error = made()
    assert told(error) == line
    assert told(recorded(error)) == line, "what Dagster keeps of it says the same"


def test_the_error_of_a_step_is_told_as_the_same_error_outside_of_a_run() -> None:
    def failing(name: str, made: Callable[[], BaseException]) -> AssetsDefinition:
        @asset(name=name)
        def one() -> None:
            raise made()

        return one

    assets = {f"step_{number}": (made, line) for number, (made, line) in enumerate(TABLE.values())}
    run = materialize([failing(name, made) for name, (made, _) in assets.items()], raise_on_error=False)
    failures = {
        event.step_key: event.step_failure_data.error for event in run.all_events if event.is_step_failure
    }
    assert {str(step): told(error) for step, error in failures.items() if error} == {
        name: line for name, (_, line) in assets.items()
    }


def recorded(error: BaseException) -> SerializableErrorInfo:
    return SerializableErrorInfo.from_traceback(traceback.TracebackException.from_exception(error))


@pytest.mark.parametrize(
    ("error", "interrupted"),
    [
        (DagsterExecutionInterruptedError(), True),
        (KeyboardInterrupt(), True),
        (handled(OSError("tidying up"), DagsterExecutionInterruptedError()), True),
        (caused(RuntimeError("op"), KeyboardInterrupt()), True),
        (RuntimeError("KeyboardInterrupt"), False),
    ],
)
def test_an_interrupt_is_found_in_whatever_it_was_turned_into(
    error: BaseException, interrupted: bool
) -> None:
    assert is_interrupted(error) is is_interrupted(recorded(error)) is interrupted


def test_a_cut_off_file_of_a_feed_is_named_by_a_run_and_not_by_the_library_alone(tmp_path: Path) -> None:
    packed = gzip.compress(
        b"transaction_id,event_timestamp,customer_id,merchant_id,amount\n"
        + b"1,2026-01-01 10:00:00,c,m,3.50\n" * 500
    )
    (tmp_path / "payments.csv.gz").write_bytes(packed[:-20])
    source = open_source(FRAUD, {"kind": "files", "path": "payments.csv.gz"}, tmp_path)

    @asset
    def payments() -> None:
        source.rows("transactions", date(2026, 1, 1), date(2026, 1, 1))

    (failed,) = [
        event for event in materialize([payments], raise_on_error=False).all_events if event.is_step_failure
    ]
    line = told(failed.step_failure_data.error or RuntimeError())
    assert line.startswith(f"{tmp_path}/payments.csv.gz: ")
    assert "EOFError" not in line
    assert "\n" not in line


def test_a_second_rebuild_says_that_another_one_runs(tmp_path: Path) -> None:
    plan, database = FeaturePlan("", (), (), ()), tmp_path / "x.db"
    opened = [closing(sqlite3.connect(database, isolation_level=None)) for _ in range(2)]
    with (
        opened[0] as one,
        opened[1] as other,
        OnlineRebuild(one, plan),
        pytest.raises(RebuildError) as refused,
        OnlineRebuild(other, plan),
    ):
        pass
    assert (
        told(refused.value)
        == f"{tmp_path}/x.db.rebuild.lock: another rebuild is running; give the command again when it has"
        " ended"
    )


@pytest.mark.parametrize(
    "words",
    [["--debug", "--config", "nowhere.toml", "status"], ["--config", "nowhere.toml", "status", "--debug"]],
)
def test_debug_before_or_after_the_command_keeps_the_traceback(
    words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("MLOPS_CONFIG", "MLOPS_TRACEBACK"):
        monkeypatch.setenv(name, "")  # so that what the command sets is taken back
    assert main(["--config", "nowhere.toml", "status"]) == 1
    with pytest.raises(ConfigError, match=r"nowhere.toml: no such configuration file"):
        main(words)


def test_every_error_of_the_platform_has_the_one_base() -> None:
    root = Path(mlops_assets.__file__).parent
    strangers = []
    for file in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            bases = [ast.unparse(base) for base in node.bases] if isinstance(node, ast.ClassDef) else []
            builtin = [name for name in bases if isinstance(vars(builtins).get(name), type)]
            if "PlatformError" not in bases and any(
                issubclass(vars(builtins)[name], BaseException) for name in builtin
            ):
                strangers.append(f"{file.relative_to(root)}: {node.name}")
    assert strangers == ["errors.py: PlatformError"]
