"""The release bundle: everything that a version needs in order to serve.

A bundle is five files under one digest. None of them can run code: `model.txt` (LightGBM text),
`release.json` (subject, plan, calibrator, policy, facts, golden rows), `reference.parquet` (what drift is
measured against), `model.onnx` (the same scores for those who serve elsewhere) and `digests.json`.

Digests are verified before anything is parsed, because LightGBM aborts, hangs or scores differently on a
damaged text file.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.engine.plan import FeaturePlan
from serving.contract.before_subjects import BEFORE
from serving.contract.bounds import Bounds
from serving.contract.policy import Policy
from serving.contract.scorers.base import FAMILIES
from serving.contract.scorers.lightgbm import Calibrator, names_in_text
from serving.contract.subject import Subject
from serving.errors import ServingError

FORMAT = 4
# A release of format 2 has no bounds, because the defaults were the only ones. A release before format 4 has
# no subject, because all of them had the one of `before_subjects`.
READABLE = (2, 3, 4)
MODEL, FACTS, REFERENCE = "model.txt", "release.json", "reference.parquet"
ONNX, DIGESTS = "model.onnx", "digests.json"
CONTENT = (MODEL, FACTS, REFERENCE, ONNX)

# A bundle may name declared transforms, and no other function.
TRANSFORM = re.compile(r"feature_repo\.[a-z]\w*\.context:[a-z]\w*")
# The check was ended from outside, as when memory ran out. A bad model ends by SIGSEGV or SIGABRT.
INTERRUPTED = (-signal.SIGKILL, -signal.SIGTERM)

Vector = list[float | None]


class BundleError(ServingError):
    """A bundle that must not serve: damaged, incomplete, inconsistent, or with other scores than recorded."""

    def __init__(self, path: Path | str, why: str) -> None:
        self.path, self.why = str(path), why
        super().__init__(f"{path}: {why}")


class Inconclusive(BundleError):
    """A bundle that could not be tried to the end. Nothing is known to be wrong, and it may serve later."""


@dataclass(frozen=True)
class Release:
    """One version, complete.

    `subject` is its use case. `golden` holds vectors and the exact scores that they have to get. After
    `maturity_days` silence means negative. The training data were held to `bounds`. `family` says which
    scorer reads the model: `lightgbm` the text model, `onnx` the ONNX file.
    """

    subject: Subject
    plan: FeaturePlan
    features: tuple[str, ...]
    model_text: str
    calibrator: Calibrator
    policy: Policy
    maturity_days: float
    facts: Mapping[str, object]
    golden: tuple[list[Vector], list[float]]
    bounds: Bounds = field(default_factory=Bounds)
    family: str = "lightgbm"

    @property
    def use_case(self) -> str:
        """The name of the use case."""
        return self.subject.name

    @property
    def reference_fit(self) -> str | None:
        """The fit whose scores the drift reference has, from the fact `reference`.

        The fit `release` is this bundle's model. None where the release names none: then the reference has
        the scores of another fit.
        """
        told = self.facts.get("reference")
        return str(told["fit"]) if isinstance(told, Mapping) and "fit" in told else None


def write_release(release: Release, directory: Path, reference: pa.Table, onnx: bytes) -> str:
    """Write the bundle into a new or empty directory; returns the SHA-256 over the digests of its files.

    `onnx` is the content of the ONNX file. `BundleError` for an inconsistent release and for a directory that
    holds something.
    """
    _check_consistent(release, directory)
    directory.mkdir(parents=True, exist_ok=True)
    if present := sorted(p.name for p in directory.iterdir()):
        raise BundleError(directory, f"not empty: it holds {present[0]}")
    (directory / MODEL).write_bytes(release.model_text.encode())
    (directory / FACTS).write_text(json.dumps(_to_dict(release), indent=1, sort_keys=True, allow_nan=False))
    pq.write_table(reference, directory / REFERENCE, compression="zstd")
    (directory / ONNX).write_bytes(onnx)
    digests = {name: _sha256(directory / name) for name in CONTENT}
    (directory / DIGESTS).write_text(
        json.dumps({"format": FORMAT, "files": digests}, indent=1, sort_keys=True)
    )
    return _digest(digests)


def verify_digests(directory: Path) -> str:
    """Check that the bundle holds exactly its files, each as it was written; returns the bundle's digest.

    Parses nothing but `digests.json`. `BundleError` for whatever differs.
    """
    if not directory.is_dir():
        raise BundleError(directory, "no such bundle")
    if odd := sorted(p.name for p in directory.iterdir() if p.is_symlink() or not p.is_file()):
        raise BundleError(directory, f"{odd[0]} is not a plain file")
    present = {p.name for p in directory.iterdir()}
    if DIGESTS not in present:
        raise BundleError(directory, f"{DIGESTS} is missing")
    try:
        written = json.loads((directory / DIGESTS).read_bytes())
        recorded = dict(written["files"])
        if written["format"] not in READABLE:
            raise ValueError(
                f"format {written['format']!r}, this platform reads {' and '.join(map(str, READABLE))}"
            )
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(directory, f"{DIGESTS} cannot be read ({error})") from error
    if missing := sorted({*CONTENT, DIGESTS} - present):
        raise BundleError(directory, f"{missing[0]} is missing")
    if extra := sorted(present - {*CONTENT, DIGESTS}):
        raise BundleError(directory, f"{extra[0]} does not belong to a bundle")
    if set(recorded) != set(CONTENT):
        raise BundleError(directory, f"{DIGESTS} names {sorted(recorded)}, expected {sorted(CONTENT)}")
    for name in CONTENT:
        if (actual := _sha256(directory / name)) != recorded[name]:
            raise BundleError(
                directory,
                f"{name} was altered: its SHA-256 is {actual[:12]}…, recorded {str(recorded[name])[:12]}…",
            )
    return _digest(recorded)


def load_release(directory: Path) -> Release:
    """Read a bundle after its digests are verified.

    `BundleError` for anything that is wrong with it. The model itself is not parsed here.
    """
    verify_digests(directory)
    try:
        release = _from_dict(
            json.loads((directory / FACTS).read_bytes()), (directory / MODEL).read_bytes().decode()
        )
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(directory, f"{FACTS} cannot be read ({type(error).__name__}: {error})") from error
    _check_consistent(release, directory)
    return release


def load_reference(directory: Path) -> pa.Table:
    """The drift reference of a bundle, after its digests are verified; `BundleError` where they differ."""
    verify_digests(directory)
    return pq.read_table(directory / REFERENCE)


def check_release(directory: Path, timeout_s: float = 60.0) -> None:
    """Load the model and score the golden rows in another process.

    `BundleError` for a model that crashes or gives other scores than recorded. `Inconclusive` where the
    process was ended from outside, or took longer than `timeout_s` seconds.
    """
    verify_digests(directory)
    command = [sys.executable, "-m", "serving.contract.golden_rows", str(directory.resolve())]
    options: dict[str, Any] = {
        "cwd": Path(__file__).parents[2],
        "capture_output": True,
        "text": True,
        "errors": "replace",
    }
    try:
        done = subprocess.run(command, timeout=timeout_s, check=False, **options)
    except subprocess.TimeoutExpired as error:
        raise Inconclusive(directory, f"its golden rows were not scored within {timeout_s:g} s") from error
    if done.returncode in INTERRUPTED:
        raise Inconclusive(directory, f"scoring its golden rows was ended by signal {-done.returncode}")
    if done.returncode < 0:
        raise BundleError(directory, f"scoring its golden rows ended by signal {-done.returncode}")
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise BundleError(
            directory, lines[-1] if lines else f"scoring its golden rows exited {done.returncode}"
        )


def as_row(vector: Iterable[float | None]) -> list[float]:
    """A vector as the model takes it, with NaN for null."""
    return [math.nan if value is None else value for value in vector]


def _check_consistent(release: Release, place: Path) -> None:
    """`BundleError` where plan, release and model differ in names or order of the features, or where golden
    rows are missing or of another width.
    """
    if release.features != release.plan.features:
        raise BundleError(
            place,
            "the features differ from the plan's:"
            f" {_first_difference(release.features, release.plan.features)}",
        )
    if foreign := [o.function for o in release.plan.on_demand if not TRANSFORM.fullmatch(o.function)]:
        raise BundleError(
            place, f"{foreign[0]} is not a transform of the feature repository: a bundle brings no code"
        )
    if release.family not in FAMILIES:
        raise BundleError(place, f"family {release.family!r}: this platform scores {' and '.join(FAMILIES)}")
    # The names in an ONNX file are compared once ONNX Runtime has loaded it, by `golden_rows`.
    named = names_in_text(release.model_text) if release.family == "lightgbm" else release.features
    if named != release.features:
        raise BundleError(
            place, f"the features differ from the model's: {_first_difference(release.features, named)}"
        )
    vectors, scores = release.golden
    if not vectors or len(vectors) != len(scores):
        raise BundleError(place, f"{len(vectors)} golden rows with {len(scores)} scores")
    if wrong := [len(v) for v in vectors if len(v) != len(release.features)]:
        raise BundleError(place, f"a golden row of {wrong[0]} values for {len(release.features)} features")


def _first_difference(left: Sequence[str], right: Sequence[str]) -> str:
    for position, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return f"{a!r} against {b!r} at position {position}"
    return f"{len(left)} against {len(right)} of them"


def _to_dict(release: Release) -> dict[str, Any]:
    vectors, scores = release.golden
    return {
        "use_case": release.use_case,
        "subject": release.subject.to_dict(),
        "plan": release.plan.to_dict(),
        "features": list(release.features),
        "calibrator": {"a": release.calibrator.a, "b": release.calibrator.b},
        "policy": {"review": release.policy.review, "block": release.policy.block},
        "maturity_days": release.maturity_days,
        "facts": dict(release.facts),
        "bounds": release.bounds.to_dict(),
        "family": release.family,
        "golden": {
            "vectors": [[None if v is None or v != v else float(v) for v in vector] for vector in vectors],
            "scores": [float(s) for s in scores],
        },
    }


def _from_dict(values: dict[str, Any], model_text: str) -> Release:
    return Release(
        subject=_subject(values),
        plan=FeaturePlan.from_dict(values["plan"]),
        features=tuple(values["features"]),
        model_text=model_text,
        calibrator=Calibrator(**values["calibrator"]),
        policy=Policy(**values["policy"]),
        maturity_days=float(values["maturity_days"]),
        facts=values["facts"],
        golden=(values["golden"]["vectors"], values["golden"]["scores"]),
        bounds=Bounds.from_dict(values.get("bounds", {})),
        family=values.get("family", "lightgbm"),
    )


def _subject(values: Mapping[str, Any]) -> Subject:
    subject = Subject.from_dict(values["subject"]) if "subject" in values else BEFORE
    if subject.name != values["use_case"]:
        raise ValueError(f"use_case {values['use_case']!r}, and the subject is of {subject.name!r}")
    return subject


def _digest(files: Mapping[str, str]) -> str:
    return hashlib.sha256("\n".join(f"{name} {files[name]}" for name in sorted(files)).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
