"""A home on disk: a folder that can be copied, its format, and the lock for its preparation.

MLflow's database names the places of artifacts relative to its own folder. Homes of format 1 have absolute
places, and a copy of such a home would write into the original. These places are rewritten once.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from filelock import FileLock

from feature_repo.lake.files import write_whole
from feature_repo.online.sqlite.transactions import transaction
from mlops_assets.errors import PlatformError

LAYOUT, LOCK = "home.json", "prepare.lock"
FORMAT = 2  # Format 1 had no such file and absolute places
ARTIFACTS = "artifacts"  # In MLflow's folder, beside its database
DATABASE = Path("mlflow", "mlflow.db")
# MLflow's columns with places of artifacts. `source` is models:/m-…, runs:/… or a path that a person gave.
PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)
ABSOLUTE = re.compile(r"(?:file://)?(/.*)/mlflow/artifacts")


class HomeError(PlatformError):
    """A home cannot be used as it is. The message names the file and what to do."""


@contextmanager
def preparing(home: Path) -> Iterator[None]:
    """Let one process at a time make the missing parts of a home. A killed process holds no lock.

    A caller looks first without the lock, so that nobody waits for a prepared home, and again under the lock.
    """
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / LOCK):
        yield


def bring_up(home: Path) -> None:
    """Rewrite a home of an older format to this one, once, with a line on stderr.

    A home without MLflow's database has nothing to rewrite. A home that can only be read keeps its absolute
    places. `HomeError` for a home of a newer format and for a damaged database.
    """
    database = home / DATABASE
    if (
        read_layout(home).get("format") == FORMAT
        or not has_content(database)
        or not os.access(database, os.W_OK)
    ):
        return
    with preparing(home):
        if read_layout(home):
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
    """Whether the file exists and is not empty. SQLite takes an empty file for a database without tables."""
    return database.exists() and database.stat().st_size > 0


def read_layout(home: Path) -> dict[str, Any]:
    """What `home.json` says: the number of the format, and the use case. Empty where there is no file.

    `HomeError` for a file that cannot be read, and for a home of a newer format.
    """
    place = home / LAYOUT
    try:
        layout: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
        found = layout["format"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HomeError(
            f"{place} cannot be read ({error}): delete it, and the next command writes it again"
        ) from error
    if not isinstance(found, int) or found > FORMAT:
        raise HomeError(
            f"{place}: this home has format {found}, and this version knows formats up to {FORMAT}: use a"
            " newer version"
        )
    return layout


def write_layout(home: Path, **facts: str) -> None:
    """Note that the home has this format, and `facts` such as its use case.

    Facts that are in the file already stay. The caller holds the lock of `preparing`.
    """
    layout = read_layout(home)
    wanted = {**layout, "format": FORMAT, **facts}
    if wanted != layout:
        write_whole(home / LAYOUT, json.dumps(wanted).encode() + b"\n")


def is_absolute(place: str) -> bool:
    """Whether a place of artifacts is the absolute path of a home's own folder."""
    return ABSOLUTE.fullmatch(place) is not None


def local_place(folder: Path, place: str) -> Path | None:
    """The path of artifacts on this machine. `place` has the form of MLflow's database in `folder`.

    None where the place is on a remote store.
    """
    found = urlparse(place)
    if found.scheme not in ("", "file"):
        return None
    return folder / (unquote(found.path) if found.scheme else place)


def make_relative(database: Path) -> int:
    """Rewrite all absolute places of a home's MLflow database in one transaction. Returns their number.

    Places outside of a home stay as they are.
    """
    with (
        closing(sqlite3.connect(database, timeout=30, isolation_level=None)) as connection,
        transaction(connection),
    ):
        roots = [
            place
            for (place,) in connection.execute("SELECT DISTINCT artifact_location FROM experiments")
            if place and is_absolute(place)
        ]
        rewritten = sum(
            _shorten(connection, table, column, root) for root in roots for table, column in PLACES
        )
        for home in {unquote(ABSOLUTE.fullmatch(root)[1]) for root in roots}:  # type: ignore[index]
            before = json.dumps(f"{home}/")[:-1]  # The path as JSON text has it
            rewritten += connection.execute(
                "UPDATE datasets SET dataset_source = replace(dataset_source, ?, '\"') WHERE"
                " instr(dataset_source, ?)",
                (before, before),
            ).rowcount
        # MLflow's default experiment gets a folder below the working directory of its first start. The
        # platform logs nothing there.
        connection.execute(
            "UPDATE experiments SET artifact_location = ? WHERE experiment_id = 0 AND NOT EXISTS (SELECT 1"
            " FROM runs WHERE experiment_id = 0)",
            (f"{ARTIFACTS}/0",),
        )
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
    """Rewrite the descriptions of models, which name the place as well. Returns the number of files."""
    count = 0
    for file in artifacts.glob("models/*/artifacts/MLmodel"):
        text = file.read_text(encoding="utf-8")
        shorter = text.replace(f"artifact_path: {root}/", f"artifact_path: {ARTIFACTS}/")
        if shorter != text:
            write_whole(file, shorter.encode())
            count += 1
    return count
