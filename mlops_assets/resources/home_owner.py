"""A home belongs to one use case, which its file `home.json` names.

Two use cases in one home would mix their days in the lake, their versions in the registry and their decisions
in the history.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from mlops_assets.core.use_case import UseCase
from mlops_assets.resources.home import (
    DATABASE,
    HomeError,
    bring_up,
    has_content,
    preparing,
    read_layout,
    write_layout,
)
from serving.contract.before_subjects import BEFORE
from serving.store.base import StoreError
from serving.store.opening import serving_log

USE_CASE = "use_case"  # The key in home.json


class ForeignHome(HomeError):
    """The home belongs to another use case. The message names both use cases, the home and the remedy."""


@dataclass(frozen=True)
class Owner:
    """A use case as a home knows it: its name, and the package of its feature declarations."""

    name: str
    declarations: str

    @classmethod
    def of(cls, case: UseCase) -> Owner:
        """The use case as the owner of a home."""
        return cls(case.name, case.feast_package)

    def check(self, home: Path) -> None:
        """Raise `ForeignHome` where the home belongs to another use case. Nothing is written.

        A home of an earlier version does not name its use case. The service's log, the registry or the
        feature store then names it, in this order. A home that holds none of them has no owner yet.
        """
        found = read_layout(home).get(USE_CASE) or self._found_in(home)
        if found and found != self.name:
            raise ForeignHome(
                f"{home}: this home belongs to the use case {found!r}, and the configuration names"
                f" {self.name!r}; a home belongs to one use case: let MLOPS_HOME name another folder for"
                f" {self.name!r}"
            )

    def claim(self, home: Path) -> None:
        """Note in `home.json` that the home belongs to this use case. `ForeignHome` where it does not."""
        self.check(home)
        if read_layout(home).get(USE_CASE):
            return
        bring_up(home)
        with preparing(home):
            self.check(home)
            write_layout(home, **{USE_CASE: self.name})

    def _found_in(self, home: Path) -> str | None:
        return _of_log(home) or self._of_registry(home) or self._of_features(home)

    def _of_registry(self, home: Path) -> str | None:
        """The name of a registered model, which is the name of its use case."""
        database = home / DATABASE
        if not has_content(database):
            return None
        try:
            with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
                names = [name for (name,) in connection.execute("SELECT name FROM registered_models")]
        except sqlite3.DatabaseError:  # The command that needs the registry says what is wrong with it
            return None
        return self.name if self.name in names else next(iter(names), None)

    def _of_features(self, home: Path) -> str | None:
        """The use case whose declarations the feature store holds. The first stores did not name it."""
        applied = home / "feast" / "applied"
        if not applied.exists():
            return None
        package, _, _ = applied.read_text().strip().rpartition(" ")
        if not package:
            return BEFORE.name
        return self.name if package == self.declarations else package.removeprefix("feature_repo.")


def _of_log(home: Path) -> str | None:
    """The use case whose decisions the service's log holds."""
    try:
        subject = serving_log(home / "serving" / "serving.db").subject()
    except StoreError:  # The command that needs the log says what is wrong with it
        return None
    return subject.name if subject else None
