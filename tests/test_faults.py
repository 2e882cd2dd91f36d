"""The bad days by their numbers: each is shown by a test that carries `pytest.mark.fault(number)`.

Number 5, a request without credentials, has no test: the service has no keys yet and listens on the loopback
address alone.
"""

from __future__ import annotations

import ast
from pathlib import Path

FAULTS = {
    1: "NaN, Infinity, 1e400 in a body",
    2: "a number as text, true for a number, an unknown field",
    3: "a body over the limit, or 100,000 levels deep",
    4: "a wrong shape, a wrong type, a batch over its cap, an unknown model or version",
    6: "a foreign Host header, a page of another origin",
    7: "more requests at once than the service takes",
    8: "SIGTERM with 50 requests in flight",
    9: "the online store hangs",
    10: "the registry is down, while running and at a cold start",
    11: "100 reloads of the model under load",
    12: "10,000 random paths, names and ids",
    13: "an id sent twice, raced, or retried after a crash between commit and reply",
    14: "a model file that is truncated, has an index out of range or a cycle, or lacks a tree",
    24: "a lock held on the online database",
    25: "a full or read-only disk",
    38: "a wave of payments that are stopped and explained",
    39: "tidying and checkpoints beside traffic",
}


def marked() -> set[int]:
    """The numbers that a mark names anywhere in the tests: of a function, a class, a module or a case."""
    return {
        ast.literal_eval(number)
        for file in Path(__file__).parent.rglob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.fault"
        for number in node.args
    }


def test_every_fault_has_a_test_and_every_mark_names_a_fault() -> None:
    assert marked() == set(FAULTS)
