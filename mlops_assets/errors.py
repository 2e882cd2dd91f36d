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
LONGEST_QUOTE = 400  # Characters of a library's message. Our own messages are never cut.
_FORMATTED = re.compile(r"([\w.<>]+)(?:: |\n|$)")  # Python prints the class, then the message
_LIST = re.compile(r"[^\n]*: \d+ problems\n  ")
# Libraries wrap their message in a system error's number, a driver's class, a statement or a link.
_TRIMMINGS = (
    re.compile(r"^\[Errno -?\d+\] "),
    re.compile(r"^\((?:\w+\.)+\w+\) "),
    re.compile(r" \[SQL: .*"),
    re.compile(r" \(Background on this error at: .*"),
)
_FILE_OF_SYSTEM_ERROR = re.compile(r"(: '[^']*')( -> '[^']*')?$")


class Recorded(Protocol):
    """Dagster's record of an exception, `SerializableErrorInfo`. Its message begins with the class."""

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
    """One exception of a chain: the full name of its class, its message, and the exception before it.

    `cause` is what `raise … from` named. `context` is what was being handled at the time. It is None where
    `from` was used.
    """

    kind: str
    text: str
    cause: Link | None = None
    context: Link | None = None

    @property
    def is_ours(self) -> bool:
        """Whether the class is one of this project."""
        return self.kind.split(".")[0] in OURS

    @property
    def name(self) -> str:
        """The class without its module."""
        return self.kind.rsplit(".", 1)[-1]


def listed(place: str, problems: Sequence[str]) -> str:
    """The message for one or several problems of one place.

    One problem is one line. Several problems are a line that counts them and a line each. `told` keeps these
    line breaks and joins all other lines.
    """
    if len(problems) == 1:
        return f"{place}: {problems[0]}"
    return "\n  ".join([f"{place}: {len(problems)} problems", *(_line(problem) for problem in problems)])


def told(error: BaseException | Recorded) -> str:
    """The message for a person: that of the outermost error of ours in the chain.

    The message of the library that caused it follows in parentheses, unless our message holds its words
    already. A chain without an error of ours gives its innermost cause, with the type. An exception and
    Dagster's record of the same exception give the same message.
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
    """Whether Ctrl-C caused the failure, also where a library turned it into another exception."""
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
    """Each exception of the chain, then its cause or context: Python's printed order, from the end."""
    while link is not None:
        yield link
        link = link.cause or link.context


def _causes(link: Link) -> Iterator[Link]:
    """The causes that `raise … from` named. An exception that was only being handled explains nothing."""
    while (cause := link.cause) is not None:
        yield cause
        link = cause


def _quoted(library: Link) -> str:
    text = library.text
    for trimming in _TRIMMINGS:
        text = trimming.sub("", text)
    return text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]} …"


def _added(library: Link, line: str) -> str:
    """What the library's message adds to our line. Empty where our line holds all of its words."""
    text = _quoted(library)
    without_file = _FILE_OF_SYSTEM_ERROR.sub("", text)
    if any(_words(part) <= _words(line) for part in (text or library.name, without_file or library.name)):
        return ""
    return text if " " in text else f"{library.name}: {text}".removesuffix(": ")


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))
