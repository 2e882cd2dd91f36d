"""Where the time of a prediction goes, in microseconds a row, in the process and without HTTP.

python benchmarks/stages.py [--data DIR] [--work DIR] [--kind transaction] [--decisions allow] [--group 16]

The home is the one of benchmarks/serving.py. The bytes of requests go in, the bytes of answers come out, so
many rows a commit. Housekeeping is done between two commits, as the service does it, and is not counted.
Every stage is timed by itself; `rest` is what the whole has beyond the stages. `not_timed` is the whole of
as many rows without the timers: the difference is what they cost. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).parents[1]
# As in serving.py, which would hide the package of the same name.
__path__ = [str(ROOT / "serving")]
WARM_ROWS, ROWS, ROUNDS, SETTLE_EVERY = 4_000, 4_000, 5, 64


class Stages:
    """The time spent in functions, by the stage they belong to."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)
        self.on = False

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, counted for a stage while `on`."""
        spent, clock = self.spent, time.perf_counter

        def call(*arguments: Any, **named: Any) -> Any:
            if not self.on:
                return function(*arguments, **named)
            began = clock()
            try:
                return function(*arguments, **named)
            finally:
                spent[stage] += clock() - began

        return call

    @contextmanager
    def commits(self, transaction: Callable[..., Any], *arguments: Any) -> Iterator[Any]:
        """A transaction whose end counts as the stage of the commit."""
        with transaction(*arguments) as value:
            yield value
            began = time.perf_counter()
        self.spent["commit"] += time.perf_counter() - began if self.on else 0.0


def main() -> None:
    from handbook import configured_folder
    from load.prepared import prepared

    options = arguments()
    data = options.data or configured_folder()
    if not any(data.glob("*.parquet")):
        print(
            json.dumps({"benchmark": "stages", "skipped": f"the data is not in {data}; name it with --data"})
        )
        return
    made = prepared(data, options.work)
    home = made.copy_home(made.scratch / "home-stages")
    try:
        figures = measured(made, home, options)
    finally:
        shutil.rmtree(home)
    print(json.dumps({"benchmark": "stages", **figures}))


def measured(made: Any, home: Path, options: argparse.Namespace) -> dict[str, Any]:
    from load.bench import release_of

    stages = Stages()
    with stages_of_a_decision(stages):
        service = InProcess(made, home, release_of(options.decisions, options.kind))
        bodies = service.bodies(options.kind)
        service.answer(list(islice(bodies, WARM_ROWS)), options.group)
        whole, bare = [], []
        for _ in range(ROUNDS):
            for stages.on, found in ((True, whole), (False, bare)):
                found.append(service.answer(list(islice(bodies, ROWS)), options.group))
        service.plane.close()
    us = {stage: spent / ROUNDS / ROWS * 1e6 for stage, spent in stages.spent.items()}
    total = median(whole) / ROWS * 1e6
    return {
        "kind": options.kind,
        "decisions": options.decisions,
        "group": options.group,
        "rows": ROWS,
        "rounds": ROUNDS,
        "us": {stage: round(one, 1) for stage, one in {**us, "rest": total - sum(us.values())}.items()},
        "whole_us": round(total, 1),
        "not_timed_us": round(median(bare) / ROWS * 1e6, 1),
    }


class InProcess:
    """The data plane of a copied home and the messages of its use case."""

    def __init__(self, made: Any, home: Path, release: str) -> None:
        from serving.contract.bundle import load_release
        from serving.contract.scorers.base import load_scorer
        from serving.data_plane import DataPlane
        from serving.protocols.native.wire import wire_of
        from serving.releases import Champion
        from serving.settings import ServingSettings
        from serving.store.opening import serving_store

        place = made.folder / f"bundle-{release}"
        loaded = load_release(place)
        champion = Champion("1", "", loaded, load_scorer(loaded, place))
        settings = ServingSettings(home, clock="event", lake=str(made.home / "lake"))
        store = serving_store(settings.database)
        self.plane = DataPlane(settings, store, lambda: champion, lambda: time.time_ns() // 1_000)
        self.plane.warm_up(champion)
        self._made, self._wire, self._release = made, wire_of(loaded.subject), loaded

    def bodies(self, kind: str) -> Iterator[bytes]:
        """Requests as the service's benchmark sends them."""
        from load.bench import SERVICE, vectors_body
        from load.cells import Load, bodies_of

        lines = self._made.first_payments
        if kind == "vector":
            lines = self._made.bodies(SERVICE, 1, vectors_body(self._made.features, alone=True))
        return bodies_of(Load(0, "", lines, "stages-", ()))

    def answer(self, bodies: Sequence[bytes], group: int) -> float:
        """Answer requests, so many a commit; returns the seconds, without those of the housekeeping."""
        import orjson

        wire, plane, seconds = self._wire, self.plane, 0.0
        for at in range(0, len(bodies), group):
            began = time.perf_counter()
            rows = [wire.asked(body) for body in bodies[at : at + group]]
            for one in plane.predict_many(rows):
                if isinstance(one, Exception):
                    raise one
                orjson.dumps(wire.shown(one))
            seconds += time.perf_counter() - began
            if at % SETTLE_EVERY < group:
                self._settle()
        return seconds

    def _settle(self) -> None:
        stream, lateness_us = self._release.subject.event.dataset, self._release.bounds.lateness_us
        self.plane.between_requests(lambda store: store.settle_some())
        self.plane.between_requests(lambda store: store.forget_some(stream, lateness_us))
        self.plane.between_requests(lambda store: store.tidy(store.begin_again))


@contextmanager
def stages_of_a_decision(stages: Stages) -> Iterator[None]:
    """Time the functions that a prediction goes through."""
    import serving.deciding.open_decisions
    import serving.deciding.recording
    from feature_repo.online.sqlite.state import SqliteOnlineState
    from serving.contract.events import EventRules
    from serving.contract.scorers.lightgbm import Scorer
    from serving.deciding.scoring import EventInputs
    from serving.protocols.native.wire import Wire
    from serving.store.sqlite.writing import SqliteServingStore

    places: list[tuple[str, Any, str]] = [
        ("parse", Wire, "asked"),
        ("known ids", SqliteServingStore, "known"),
        ("check", serving.deciding.recording, "check_event"),
        ("check", serving.deciding.recording, "payload_digest"),
        ("check", serving.deciding.recording, "in_order"),
        ("freshness", serving.deciding.recording, "freshness_of"),
        ("vector", EventInputs, "vector"),
        ("score", Scorer, "score_one"),
        ("score", Scorer, "score"),
        ("versions read", SqliteOnlineState, "versions"),
        ("labels", SqliteServingStore, "labels_of"),
        ("state", EventRules, "add_event"),
        ("reasons", serving.deciding.open_decisions, "reasons_of"),
        ("log", SqliteServingStore, "add_decisions"),
        ("answer", Wire, "shown"),
    ]
    transaction = SqliteOnlineState.transaction
    patches = [patch.object(SqliteOnlineState, "transaction", lambda self: stages.commits(transaction, self))]
    for stage, owner, name in places:
        timed = stages.timed(stage, getattr(owner, name))
        patches.append(patch.object(owner, name, timed))
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, help="the folder of the daily Parquet files")
    parser.add_argument("--work", type=Path, default=ROOT / "var" / "benchmark", help="the prepared home")
    parser.add_argument("--kind", choices=("vector", "transaction"), default="transaction")
    parser.add_argument("--decisions", choices=("allow", "block", "mixed"), default="allow")
    parser.add_argument("--group", type=int, default=16, help="rows a commit (16)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
