"""What a home is on disk: a folder that can be copied, and one lock around whatever is made in it first.

In MLflow's database the places of artifacts are relative to the database's folder. Homes of before have
absolute ones: a copy of such a home would write into the original. They are rewritten once.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import sqlite3
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import unquote, urlparse

from mlops_assets.errors import PlatformError

LAYOUT, LOCK = "home.json", "prepare.lock"
FORMAT = 2  # 1 had no such file, and absolute places
ARTIFACTS = "artifacts"  # in MLflow's folder, beside its database
DATABASE = Path("mlflow", "mlflow.db")
# Where MLflow's schema keeps places of artifacts. `source` is models:/m-… or runs:/…, or a path of a
# person's.
PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)
ABSOLUTE = re.compile(r"(?:file://)?(/.*)/mlflow/artifacts")


class HomeError(PlatformError):
    """A home cannot be used as it is; the message names the file and what to do."""


@contextmanager
def preparing(home: Path) -> Iterator[None]:
    """One process at a time makes what a home lacks. The system takes the lock back when a process dies.

    Callers look first without the lock, so that a prepared home makes nobody wait, and look again under it.
    """
    home.mkdir(parents=True, exist_ok=True)
    with (home / LOCK).open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def write_whole(path: Path, text: str) -> None:
    """Put a file in place in one step: what reads it meanwhile finds the old one, or none."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("x", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def bring_up(home: Path) -> None:
    """Rewrite a home of before to this layout, once, with a line on stderr.

    One of a newer layout is `HomeError`.

    A home without MLflow's database has nothing to rewrite; one that can only be read goes on with its
    absolute places.
    """
    database = home / DATABASE
    if _format(home) == FORMAT or not has_content(database) or not os.access(database, os.W_OK):
        return
    with preparing(home):
        if _format(home) == FORMAT:
            return
        try:
            rewritten = make_relative(database)
        except sqlite3.DatabaseError as error:
            raise HomeError(f"{database} cannot be used ({error}): restore it from the backup") from error
        write_layout(home)
    if rewritten:
        told = (
            f"{rewritten} absolute paths in MLflow's records are relative to the home now, so that a copy"
            " uses its own files"
        )
        print(f"mlops: {home}: {told}", file=sys.stderr, flush=True)


def has_content(database: Path) -> bool:
    """Whether there is anything in a database's file; SQLite takes an empty one for a database without
    tables.
    """
    return database.exists() and database.stat().st_size > 0


def write_layout(home: Path) -> None:
    """Note that the home is of this layout. For whoever holds the lock."""
    if _format(home) != FORMAT:
        write_whole(home / LAYOUT, json.dumps({"format": FORMAT}) + "\n")


def is_absolute(place: str) -> bool:
    """Whether a place of artifacts names a home's own folder by its absolute path."""
    return ABSOLUTE.fullmatch(place) is not None


def local_place(folder: Path, place: str) -> Path | None:
    """Where artifacts lie on this machine, by a place as MLflow's database in `folder` has it; None where it
    names a remote store.
    """
    found = urlparse(place)
    if found.scheme not in ("", "file"):
        return None
    return folder / (unquote(found.path) if found.scheme else place)


def make_relative(database: Path) -> int:
    """Rewrite all absolute places of a home's MLflow database, in one transaction; returns how many there
    were.

    Places outside of a home stay as they are.
    """
    with closing(sqlite3.connect(database, timeout=30, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        roots = [
            place
            for (place,) in connection.execute("SELECT DISTINCT artifact_location FROM experiments")
            if place and is_absolute(place)
        ]
        rewritten = sum(
            _shorten(connection, table, column, root) for root in roots for table, column in PLACES
        )
        for home in {unquote(ABSOLUTE.fullmatch(root)[1]) for root in roots}:  # type: ignore[index]
            before = json.dumps(f"{home}/")[:-1]  # of a path within JSON
            rewritten += connection.execute(
                "UPDATE datasets SET dataset_source = replace(dataset_source, ?, '\"') WHERE"
                " instr(dataset_source, ?)",
                (before, before),
            ).rowcount
        # MLflow gives its own default experiment a folder of wherever it was started first. Nothing of ours
        # is logged there.
        connection.execute(
            "UPDATE experiments SET artifact_location = ? WHERE experiment_id = 0 AND NOT EXISTS (SELECT 1"
            " FROM runs WHERE experiment_id = 0)",
            (f"{ARTIFACTS}/0",),
        )
        connection.execute("COMMIT")
    for root in roots:
        rewritten += _shorten_descriptions(database.parent / ARTIFACTS, root)
    return rewritten


def _shorten(connection: sqlite3.Connection, table: str, column: str, root: str) -> int:
    statement = (
        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR substr({column}, 1,"
        " ?) = ?"
    )
    return connection.execute(statement, (ARTIFACTS, len(root) + 1, root, len(root) + 1, f"{root}/")).rowcount


def _shorten_descriptions(artifacts: Path, root: str) -> int:
    """MLflow writes the place of a model into the model's own description, too."""
    count = 0
    for file in artifacts.glob("models/*/artifacts/MLmodel"):
        text = file.read_text(encoding="utf-8")
        shorter = text.replace(f"artifact_path: {root}/", f"artifact_path: {ARTIFACTS}/")
        if shorter != text:
            write_whole(file, shorter)
            count += 1
    return count


def _format(home: Path) -> int | None:
    """The number of the home's layout; None where nothing says it."""
    place = home / LAYOUT
    try:
        found = json.loads(place.read_text(encoding="utf-8"))["format"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HomeError(
            f"{place} cannot be read ({error}): delete it, and the next command writes it again"
        ) from error
    if not isinstance(found, int) or found > FORMAT:
        raise HomeError(
            f"{place}: this home has format {found}, and this version knows formats up to {FORMAT}: use a"
            " newer version"
        )
    return found
