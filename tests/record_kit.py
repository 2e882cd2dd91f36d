"""A record of what a version was made from, for tests that look at parts of it."""

import hashlib

from mlops_assets.resources.provenance import Record

DAYS = ("2025-03-01", "2025-03-02", "2025-03-03")


def record(**changes: object) -> Record:
    """A record that could be, with the changes."""
    values: dict[str, object] = {
        "use_case": "fraud",
        "as_of": "2025-03-04",
        "code": {
            "git_commit": "a" * 40,
            "git_dirty": "false",
            "code_digest": "c",
            "config_digest": hashlib.sha256(b"").hexdigest(),
            "lock_digest": "l",
        },
        "config": "",
        "config_base": "",
        "runtime": {"python": "3.11.7", "lightgbm": "4.7.0"},
        "feature_service": "fraud_v1",
        "plan_digest": "p",
        "recipe": {"seed": 1, "rounds": 3},
        "partitions": {"raw_transactions": {DAYS[0]: ["x"]}},
        "unvalidated": {},
        "training_set": "t",
        "models": {"evaluation": "e", "release": "r"},
    }
    return Record(**{**values, **changes})  # type: ignore[arg-type]
