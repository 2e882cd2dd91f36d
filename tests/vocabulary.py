"""A guard: the machinery names no use case.

`make lint` runs it. It reads identifiers, strings, docstrings and comments of the machinery, and prints where
one of them holds a word of a use case. The word belongs into the use case's folder, or a neutral word takes
its place: event, key, value, label, decision. `--all` prints every place, not a number for each file.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("feature_repo", "mlops_assets", "serving")

WORDS = {
    # Of card fraud
    *("transaction", "customer", "merchant", "shop", "amount", "payment", "payer", "card", "cardholder"),
    *("fraud", "fraudster", "fraudulent", "chargeback", "bank"),
    # Of late parcels
    *("parcel", "carrier", "courier", "depot", "vehicle"),
}
DECISIONS = {"ALLOW", "REVIEW", "BLOCK"}  # As values. The verbs are free

# Folders and files that are a use case's own.
OF_A_USE_CASE = (
    "mlops_assets/use_cases/",
    "feature_repo/fraud/",
    "feature_repo/parcels/",
    "mlops_assets/cli/demo/",  # The demo plays the fraud case
    "serving/contract/before_subjects.py",  # What bundles mean that were made before a use case was a value
)
# Phrases in which the word is another one.
PHRASES = (
    r"model[ _-]?cards?|ModelCard",  # The field's term for the description of a version
    r"\bcard_k\b|card[ _]precision",  # A published measure, and the configuration key of its k
    r"Machine Learning for Credit Card Fraud Detection",  # The title of a book
    r"SIG_BLOCK",  # A constant of the operating system
    r"(?:SQLite|SQL|database|Spark|Delta|write|read|open) transactions?",
    r"transactions? of (?:SQLite|the database|its own)|\bin_transaction\b",
    r"\b(?:in|of|by) one transaction\b",
)
# Words that a file, or all files of a folder, may use, and why.
FILES = {
    "mlops_assets/cli/command_line.py": {"bank"},  # The help of the demo, which plays the fraud case
    "mlops_assets/cli/commands/demo.py": {"bank"},
    "serving/contract/subject/": WORDS | DECISIONS,  # It declares what a use case is, with examples
    "mlops_assets/core/words.py": {"parcel", "vehicle"},  # Examples of plurals
    "mlops_assets/resources/environments.py": {"fraud"},  # The use case of a configuration that names none
    "feature_repo/online/base.py": {"transaction"},  # The interface speaks of the store's transactions
    "mlops_assets/steps/model/version_evaluation.py": {"card"},  # It makes the model card
    "mlops_assets/core/judging/reporting/model_card.py": {"card"},  # The module of the model card
    "mlops_assets/resources/registry.py": {"card"},  # It logs the model card
    "mlops_assets/assets/model/promoted_version.py": {"card"},  # It links to the model card
}
EXCUSED = "# guard: ok"  # At the end of a line whose word is data of an earlier version
_PHRASE = re.compile("|".join(PHRASES))
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_PROSE = re.compile(r"\s")


@dataclass(frozen=True)
class Finding:
    """One word of a use case in a file of the machinery."""

    path: str
    line: int
    word: str
    text: str


def main(arguments: list[str] | None = None) -> int:
    """Print the findings; 0 where there are none, else 1."""
    parser = argparse.ArgumentParser(description="Finds words of use cases in the machinery.")
    parser.add_argument("--all", action="store_true", help="every place, not a number for each file")
    options = parser.parse_args(arguments)
    found = list(findings(ROOT))
    if options.all:
        for one in found:
            print(f"{one.path}:{one.line}: {one.word}: {one.text}")
    else:
        for path, count in sorted(Counter(one.path for one in found).items(), key=lambda item: -item[1]):
            words = Counter(one.word for one in found if one.path == path)
            print(f"{count:5} {path} ({', '.join(f'{word} {n}' for word, n in words.most_common(4))})")
    if found:
        files = len({one.path for one in found})
        print(f"{len(found)} words of a use case in {files} files of the machinery", file=sys.stderr)
    return 1 if found else 0


def findings(root: Path) -> Iterator[Finding]:
    """Every word of a use case in the machinery under `root`, file by file."""
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            path = file.relative_to(root).as_posix()
            if not path.startswith(OF_A_USE_CASE):
                yield from findings_in(file.read_text(encoding="utf-8"), path)


def findings_in(source: str, path: str) -> Iterator[Finding]:
    """The findings in the source of one file."""
    free = {word for place, words in FILES.items() if path.startswith(place) for word in words}
    lines = source.splitlines()
    excused = {number for number, line in enumerate(lines, 1) if line.rstrip().endswith(EXCUSED)}
    opens_sqlite = "import sqlite3" in source
    for kind, text, line in _tokens(source):
        if line in excused:
            continue
        for word in _words(text):
            is_databases = word == "transaction" and opens_sqlite and _is_database_term(kind, text)
            if word not in free and not is_databases:
                yield Finding(path, line, word, lines[line - 1].strip())


def _tokens(source: str) -> Iterator[tuple[int, str, int]]:
    """Identifiers, comments, and the lines of strings: kind, text and number of the line."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        is_text = (
            token.type in (tokenize.STRING, tokenize.COMMENT)
            or "FSTRING_MIDDLE" in (tokenize.tok_name[token.type])
        )
        if is_text:
            for number, text in enumerate(token.string.split("\n"), token.start[0]):
                yield token.type, text, number
        elif token.type == tokenize.NAME:
            yield token.type, token.string, token.start[0]


def _words(text: str) -> Iterable[str]:
    """The words of use cases in a text, in the singular."""
    for part in _PART.findall(_PHRASE.sub(" ", text)):
        if part in DECISIONS:
            yield part
        word = part.lower()
        yield from WORDS & {word, word.removesuffix("s")}
    if "is_declined" in text:
        yield "is_declined"


def _is_database_term(kind: int, text: str) -> bool:
    """In a module that opens SQLite: prose, or the plain name of a function. A value or a column is none."""
    if kind == tokenize.NAME:
        return text in ("transaction", "transactions")
    return bool(_PROSE.search(text.strip())) and "transaction_" not in text


if __name__ == "__main__":
    sys.exit(main())
