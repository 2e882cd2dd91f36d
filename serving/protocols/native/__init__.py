"""The HTTP side of the scoring service."""
