"""How long after its first readiness a server is as quick as it will be."""

from __future__ import annotations

import time
from select import select
from statistics import median

from ..cells import Load, WrongAnswers, bodies_of, quantiles
from .connections import KeptConnection

WINDOW_S = 0.5
LATER_S = 8.0  # From here on a server counts as warm.
AS_QUICK = 0.95
FIRST = 100  # Requests.


def warming(load: Load, connections: int, seconds: float) -> tuple[dict[str, float], int]:
    """Send on all connections without a pause from now on; returns figures, and the number of answers.

    `warm_s`: the beginning of the first half second whose rate is at least 95 % of the later ones' median.
    The latencies of the first 100 requests stand beside the later ones', in milliseconds.
    """
    answered, latencies = _closed_loop(load, connections, seconds)
    if not answered:
        raise WrongAnswers("nothing was answered while the service warmed up")
    windows = [0] * int(seconds / WINDOW_S)
    for at_s in answered:
        if at_s < len(windows) * WINDOW_S:
            windows[int(at_s / WINDOW_S)] += 1
    later = median(windows[int(min(LATER_S, seconds / 2) / WINDOW_S) :])
    warm = next(i for i, count in enumerate(windows) if count >= AS_QUICK * later)
    first, last = quantiles(latencies[:FIRST]), quantiles(latencies[len(latencies) // 2 :])
    figures = {
        "warm_s": warm * WINDOW_S,
        "first_s_to_later": round(sum(windows[:2]) / (2 * later), 2),
        "first_100_p50_ms": first["p50"],
        "first_100_max_ms": first["max"],
        "later_p50_ms": last["p50"],
    }
    return figures, len(answered)


def _closed_loop(load: Load, connections: int, seconds: float) -> tuple[list[float], list[float]]:
    """When each request was answered, and how long it took, in seconds."""
    bodies, path = bodies_of(load), load.path.encode()
    began_s, answered, latencies = time.perf_counter(), list[float](), list[float]()
    busy = dict[KeptConnection, float]()
    for _ in range(connections):
        connection = KeptConnection(load.port)
        connection.post(path, next(bodies))
        busy[connection] = time.perf_counter()
    while (now_s := time.perf_counter()) < began_s + seconds:
        unsent = [connection for connection in busy if connection.unsent]
        readable, writable, _ = select(list(busy), unsent, [], began_s + seconds - now_s)
        for connection in writable:
            connection.send_more()
        for connection in readable:
            if (response := connection.receive()) is None:
                continue
            if response.status != 200:
                raise WrongAnswers(f"while the service warmed up: {response.status} {response.body[:300]!r}")
            at_s = time.perf_counter()
            answered.append(at_s - began_s)
            latencies.append(at_s - busy[connection])
            busy[connection] = at_s
            connection.post(path, next(bodies))
    for connection in busy:
        connection.close()
    return answered, latencies
