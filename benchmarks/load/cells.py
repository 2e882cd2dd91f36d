"""What one measurement sends and expects, and what it finds. Both clients take the one and give the other."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

MARK = b"@"  # In a prepared body, where an id belongs.


class WrongAnswers(Exception):
    """A server answered otherwise than a measurement expects. Its figures would mean nothing."""


@dataclass(frozen=True)
class Load:
    """What is sent to a server on 127.0.0.1.

    `bodies` is a file with a body a line, taken in turns. Each `MARK` in a body becomes an id of its own,
    which begins with `ids`. `texts` are what is counted in the answers.
    """

    port: int
    path: str
    bodies: Path
    ids: str
    texts: Sequence[str]


@dataclass(frozen=True)
class Found:
    """What came back: answers with status 200, and failures, which are all other requests.

    `counts` has for each text of the load how often it stood in the answers. Latencies are milliseconds.
    """

    seconds: float
    answered: int
    failed: int
    counts: Mapping[str, int]
    latency_ms: Mapping[str, float]
    refusal: str = ""  # The first answer with another status.

    def to_json(self) -> str:
        """For another process."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Found:
        """What `to_json` made."""
        return Found(**json.loads(text))

    @property
    def per_second(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds


def with_ids(body: bytes, ids: Iterator[bytes]) -> bytes:
    """A prepared body with an id in the place of each mark."""
    head, *rest = body.split(MARK)
    return head + b"".join(next(ids) + part for part in rest)


def new_ids(prefix: str) -> Iterator[bytes]:
    """Ids in ascending order, as most systems make them. Random ones dirty a page of the index each."""
    number = 0
    while True:
        yield f"{prefix}{number:08d}".encode()
        number += 1


def bodies_of(load: Load) -> Iterator[bytes]:
    """The bodies of a load with their ids, without end."""
    ids = new_ids(load.ids)
    while True:
        with load.bodies.open("rb") as lines:
            for line in lines:
                yield with_ids(line.rstrip(b"\n"), ids)


def check(found: Found, per_answer: Mapping[str, int], about: str) -> None:
    """Raise `WrongAnswers` unless something was answered, and each text stands so often in an answer.

    Requests that failed are no reason: they are counted, and the service is to have none.
    """
    if not found.answered:
        raise WrongAnswers(f"{about}: all {found.failed} requests failed. {found.refusal}")
    for text, times in per_answer.items():
        if found.counts[text] != times * found.answered:
            raise WrongAnswers(
                f"{about}: {text} stands {found.counts[text]} times in {found.answered} answers,"
                f" {times * found.answered} were expected"
            )


def quantiles(latencies_s: Sequence[float]) -> dict[str, float]:
    """Percentiles in milliseconds, by the nearest rank; none of no latencies."""
    if not latencies_s:
        return {}
    ordered = sorted(latencies_s)
    named = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    return {name: round(_rank(ordered, share) * 1e3, 3) for name, share in named.items()}


def _rank(ordered: Sequence[float], share: float) -> float:
    return ordered[max(-(-round(share * 1_000_000) * len(ordered) // 1_000_000) - 1, 0)]


def write_lines(path: Path, lines: Iterable[bytes]) -> Path:
    """A file of bodies; returns its path."""
    with path.open("wb") as handle:
        for line in lines:
            handle.write(line + b"\n")
    return path
