"""When a transaction is known to be fraud or legitimate: one rule, for the service's single transaction and for the history in the lake."""

from __future__ import annotations

from collections.abc import Sequence


def verdict_events(
    event_us: int, labels: Sequence[tuple[int, bool]], blocked: bool, maturity_us: int, learnt_us: int | None = None
) -> list[tuple[int, bool]]:
    """The verdicts on one transaction as (when it became known, is fraud), in the order in which they became known.

    A transaction without a label is legitimate once `maturity_us` have passed since the event, unless we blocked it: then only a label can say.
    A label is a verdict when it is the first one or contradicts the latest; of labels of one instant fraud comes first. Nothing is known before
    the event, nor before the platform learnt of it (`learnt_us`, where that was later).
    """
    learnt_us = event_us if learnt_us is None else max(event_us, learnt_us)
    matured_us = max(event_us + maturity_us, learnt_us)
    said = [(max(label_us, learnt_us), is_fraud) for label_us, is_fraud in labels]
    if not blocked and not any(label_us <= matured_us for label_us, _ in said):
        said.append((matured_us, False))
    verdicts: list[tuple[int, bool]] = []
    for known_us, is_fraud in sorted(said, key=lambda label: (label[0], not label[1])):
        if not verdicts or verdicts[-1][1] != is_fraud:
            verdicts.append((known_us, is_fraud))
    return verdicts
