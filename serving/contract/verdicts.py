"""The verdicts on an event, and when each becomes known.

One rule holds for the service's single event and for the history in the lake.
"""

from __future__ import annotations

from collections.abc import Sequence


def verdict_events(
    event_us: int,
    labels: Sequence[tuple[int, bool]],
    withheld: bool,
    maturity_us: int,
    learnt_us: int | None = None,
) -> list[tuple[int, bool]]:
    """The verdicts on one event as (when it became known, is positive), in the order of becoming known.

    `labels` are (when it became known, is positive). Times are microseconds since the epoch.

    - An event without a label is negative once `maturity_us` have passed since it. Where labels are
      `withheld`, silence says nothing.
    - Nothing is known before the event, nor before the platform learnt of it (`learnt_us`, where that was
      later). An earlier label waits until then.
    - The first label is a verdict, and so is each label that contradicts the latest verdict.
    - Of several labels that become known at one moment, the latest counts. Of two labels of one time, the
      negative one counts: it answers the other.
    """
    learnt_us = event_us if learnt_us is None else max(event_us, learnt_us)
    matured_us = max(event_us + maturity_us, learnt_us)
    said: dict[int, bool] = {}
    for label_us, positive in sorted(labels, key=lambda label: (label[0], not label[1])):
        said[max(label_us, learnt_us)] = positive
    if not withheld and not any(known_us <= matured_us for known_us in said):
        said[matured_us] = False
    verdicts: list[tuple[int, bool]] = []
    for known_us in sorted(said):
        if not verdicts or verdicts[-1][1] != said[known_us]:
            verdicts.append((known_us, said[known_us]))
    return verdicts
