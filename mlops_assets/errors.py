"""The one base of the platform's errors, and the line that a person reads when a command fails.

That line is the message of the outermost error of ours in the chain of exceptions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


class PlatformError(Exception):
    """Something is wrong that a person can act on. The message names the value, its place and what to do."""


OURS = ("mlops_assets", "feature_repo", "serving")
LONGEST_QUOTE = 400  # characters of a library's message; ours are told whole
_FORMATTED = re.compile(
    r"([\w.<>]+)(?:: |\n|$)"
)  # how Python prints an exception: its class, then its message
_LIST = re.compile(r"[^\n]*: \d+ problems\n  ")
# What a library puts around its message: the number of a system error, a driver's class, a database's
# statement, where to read more.
_TRIMMINGS = (
    re.compile(r"^\[Errno -?\d+\] "),
    re.compile(r"^\((?:\w+\.)+\w+\) "),
    re.compile(r" \[SQL: .*"),
    re.compile(r" \(Background on this error at: .*"),
)
_FILE_OF_SYSTEM_ERROR = re.compile(r"(: '[^']*')( -> '[^']*')?$")


class Recorded(Protocol):
    """What Dagster keeps of an exception, its `SerializableErrorInfo`. The message begins with the class."""

    @property
    def message(self) -> str: ...

    @property
    def cls_name(self) -> str | None: ...

    @property
    def cause(self) -> Recorded | None: ...

    @property
    def context(self) -> Recorded | None: ...


@dataclass(frozen=True)
class Link:
    """One exception of a chain: the full name of its class, its message, and the exceptions that came before
    it.

    `cause` was named by `raise … from`. `context` was being handled at the time, and is None where `from` was
    used.
    """

    kind: str
    text: str
    cause: Link | None = None
    context: Link | None = None

    @property
    def is_ours(self) -> bool:
        return self.kind.split(".")[0] in OURS

    @property
    def name(self) -> str:
        return self.kind.rsplit(".", 1)[-1]


def listed(place: str, problems: Sequence[str]) -> str:
    """One problem in a line, several below a line that counts them. `told` keeps these lines, and no others."""
    if len(problems) == 1:
        return f"{place}: {problems[0]}"
    return "\n  ".join([f"{place}: {len(problems)} problems", *(_line(problem) for problem in problems)])


def told(error: BaseException | Recorded) -> str:
    """The outermost error of ours.

    What a library said to it follows in parentheses, where our line does not have it yet.

    Where no error of ours is in the chain: the innermost cause with its type. The same for an exception, and
    for what Dagster keeps of one.
    """
    outermost = _link(error)
    ours = next((link for link in _inwards(outermost) if link.is_ours), None)
    if ours is None:
        innermost = outermost
        while innermost.cause is not None:
            innermost = innermost.cause
        return f"{innermost.name}: {_quoted(innermost) or 'no message'}"
    line = ours.text or f"{ours.name} without a message"
    library = next((link for link in _causes(ours) if not link.is_ours), None)
    added = _added(library, line) if library else ""
    return f"{line} ({added})" if added else line


def is_interrupted(error: BaseException | Recorded) -> bool:
    """Whether Ctrl-C is what a failure came of, whatever it was turned into."""
    return any(
        link.name in ("KeyboardInterrupt", "DagsterExecutionInterruptedError")
        for link in _inwards(_link(error))
    )


def _link(error: BaseException | Recorded) -> Link:
    """The chain of an exception, or of Dagster's record of one."""
    if isinstance(error, BaseException):
        kind = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
        handled = None if error.__suppress_context__ else error.__context__
        return Link(kind, _line(str(error)), _linked(error.__cause__), _linked(handled))
    formatted = error.message.strip()
    found = _FORMATTED.match(formatted)
    kind, text = (found[1], formatted[found.end() :]) if found else (error.cls_name or "Error", formatted)
    return Link(kind, _line(text), _linked(error.cause), _linked(error.context))


def _linked(error: BaseException | Recorded | None) -> Link | None:
    return None if error is None else _link(error)


def _line(text: str) -> str:
    if _LIST.match(text):
        return "\n  ".join(_line(line) for line in text.split("\n"))
    return " ".join(text.split())


def _inwards(link: Link | None) -> Iterator[Link]:
    """The chain as Python prints it, the other way round: each exception, then its cause or what was handled
    at the time.
    """
    while link is not None:
        yield link
        link = link.cause or link.context


def _causes(link: Link) -> Iterator[Link]:
    """What was named as the cause; what merely was being handled at the time explains nothing."""
    while (cause := link.cause) is not None:
        yield cause
        link = cause


def _quoted(library: Link) -> str:
    text = library.text
    for trimming in _TRIMMINGS:
        text = trimming.sub("", text)
    return text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]} …"


def _added(library: Link, line: str) -> str:
    """What the library's message adds to our line; empty where all its words stand there."""
    text = _quoted(library)
    without_file = _FILE_OF_SYSTEM_ERROR.sub("", text)
    if any(_words(part) <= _words(line) for part in (text or library.name, without_file or library.name)):
        return ""
    return text if " " in text else f"{library.name}: {text}".removesuffix(": ")


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))
