"""What the service turns away at the door, and the count of every request.

The guard refuses foreign hosts, writes from other sites, bodies that say that they are too long, and too many
requests at once. The parser takes no more of a body than its length says. The bytes of a body without a
length are counted by the `Door`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from serving.errors import ServingError
from serving.metrics import Metrics
from serving.settings import Limits, is_loopback

PROBES = "/health"
JSON = b"application/json"
LONGEST_HOST = 300  # A name has 253 characters at most. Longer ones are not worth being remembered.
DIGITS = 18  # Of a length. The parser takes leading zeros and white space around it.


class BodyTooLarge(ServingError):
    """The request's body is over the limit."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the body is over {limit} bytes")


class Refused(NamedTuple):
    """Why a request is turned away. `kind` is one of `serving.metrics.REFUSALS`."""

    status: int
    kind: str
    message: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Guard:
    """Says which requests are turned away by their head, and counts all of them.

    The refusals are 400 for a foreign Host, 415 for a POST that is not JSON, 413 for a body whose length is
    over the limit, and 503 when too many requests are in flight.

    A page from another site can make a browser on this machine POST text or a form here. For JSON the browser
    first asks this service for permission, and the service gives none. So only JSON is taken.
    """

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits, self._metrics, self._in_flight = limits, metrics, 0

    def enter(self) -> float:
        """A request begins; returns the moment for `leave`. Each request that enters has to leave once."""
        self._in_flight += 1
        return time.perf_counter()

    def leave(self, route: str, status: int, entered: float) -> None:
        """A request ended. It is counted by its route's template and its status."""
        self._in_flight -= 1
        self._metrics.request(route, status, time.perf_counter() - entered)

    def refusal(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> Refused | None:
        """Why a request that is about to enter is turned away; None where it is let in.

        The names of `headers` are in lower case.
        """
        host = headers.get(b"host", b"")
        if len(host) > LONGEST_HOST or not _is_loopback(host):
            return Refused(400, "foreign_host", "the Host header names another host")
        kind = headers.get(b"content-type", b"")
        if method == "POST" and kind != JSON and kind.partition(b";")[0].strip().lower() != JSON:
            close = ((b"connection", b"close"),)
            return Refused(415, "not_json", "the Content-Type has to be application/json", close)
        length = headers.get(b"content-length", b"").strip().lstrip(b"0")
        if length.isdigit() and (len(length) > DIGITS or int(length) > self._limits.body_bytes):
            close = ((b"connection", b"close"),)
            return Refused(413, "too_large", str(BodyTooLarge(self._limits.body_bytes)), close)
        if self._in_flight >= self._limits.in_flight and not path.startswith(PROBES):
            return Refused(503, "overload", "too many requests at once", ((b"retry-after", b"1"),))
        return None


@lru_cache(maxsize=64)  # Clients of a service name one or two hosts, in every request.
def _is_loopback(header: bytes) -> bool:
    host = header.decode("latin-1")
    name, _, port = host.rpartition(":")
    with_port = name and port.isdigit() and (name.endswith("]") or ":" not in name)
    return is_loopback(name if with_port else host)
