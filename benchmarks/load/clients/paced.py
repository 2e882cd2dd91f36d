"""A client that keeps to a rate whatever the server does, in a process of its own.

Latency counts from the moment at which a request was meant to be sent. So a server that stalls is charged
with every request that had to wait, and not with the few that it kept open: no coordinated omission.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from array import array
from dataclasses import asdict
from pathlib import Path
from select import select

from ..cells import Found, Load, bodies_of, quantiles
from .connections import BrokenConnection, KeptConnection

DRAIN_S = 30.0  # How long the last answers are waited for.


def paced(load: Load, rate: float, seconds: float, connections: int) -> Found:
    """Send `rate` requests a second for so long, each on the next free connection."""
    given = json.dumps({**asdict(load), "bodies": str(load.bodies.resolve())})
    words = [sys.executable, "-m", __name__, given, repr(rate), repr(seconds), str(connections)]
    # The folder from which this module was imported by its name.
    folder = Path(__file__).parents[len(__name__.split(".")) - 1]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, cwd=folder)
    return Found.from_json(done.stdout)


class PacedClient:
    """The same in this process, one thread that waits in `select`, which knows microseconds."""

    def __init__(self, load: Load, connections: int) -> None:
        self._load, self._path = load, load.path.encode()
        self._texts = [text.encode() for text in load.texts]
        self._counts = [0] * len(self._texts)
        self._free = [KeptConnection(load.port) for _ in range(connections)]
        # With the moment at which the request was meant to be sent.
        self._busy = dict[KeptConnection, float]()
        self._latencies, self._failed, self._refusal = array("d"), 0, ""

    def run(self, rate: float, seconds: float) -> Found:
        """Send, wait for the last answers, hang up, and say what came back."""
        bodies, total, sent = bodies_of(self._load), round(rate * seconds), 0
        began_s = now_s = time.perf_counter()
        until_s = began_s + seconds + DRAIN_S
        while (sent < total or self._busy) and now_s < until_s:
            while sent < total and self._free and (meant_s := began_s + sent / rate) <= now_s:
                self._send(next(bodies), meant_s)
                sent += 1
            idle_s = began_s + sent / rate - time.perf_counter() if sent < total and self._free else 1.0
            self._wait(max(idle_s, 0.0))
            now_s = time.perf_counter()
        failed = self._failed + len(self._busy) + total - sent
        for connection in (*self._free, *self._busy):
            connection.close()
        counts, latencies = dict(zip(self._load.texts, self._counts, strict=True)), quantiles(self._latencies)
        return Found(now_s - began_s, total - failed, failed, counts, latencies, self._refusal)

    def _send(self, body: bytes, meant_s: float) -> None:
        connection = self._free.pop()
        if connection.hung_up:
            connection.close()
            connection = KeptConnection(self._load.port)
        self._busy[connection] = meant_s
        try:
            connection.post(self._path, body)
        except BrokenConnection:
            self._replace(connection)

    def _wait(self, seconds: float) -> None:
        unsent = [connection for connection in self._busy if connection.unsent]
        readable, writable, _ = select(list(self._busy), unsent, [], seconds)
        for connection in readable:
            try:
                response = connection.receive()
            except BrokenConnection:
                self._replace(connection)
                continue
            if response is None:
                continue
            self._latencies.append(time.perf_counter() - self._busy.pop(connection))
            self._free.append(connection)
            if response.status != 200:
                self._failed += 1
                self._refusal = self._refusal or f"{response.status} {response.body[:300]!r}"
            else:
                for i, text in enumerate(self._texts):
                    self._counts[i] += response.body.count(text)
        for connection in writable:
            if connection in self._busy:
                try:
                    connection.send_more()
                except BrokenConnection:
                    self._replace(connection)

    def _replace(self, connection: KeptConnection) -> None:
        self._failed += 1
        del self._busy[connection]
        connection.close()
        self._free.append(KeptConnection(self._load.port))


def main() -> None:
    given, rate, seconds, connections = sys.argv[1:]
    values = json.loads(given)
    client = PacedClient(Load(**{**values, "bodies": Path(values["bodies"])}), int(connections))
    gc.disable()  # A collection would look like a stall of the server.
    print(client.run(float(rate), float(seconds)).to_json())


if __name__ == "__main__":
    main()
