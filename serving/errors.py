"""The one base of every error that serving raises on purpose."""

from __future__ import annotations


class ServingError(Exception):
    """A bundle, a setting, a request or the service's file is wrong; the message names what and where."""
