"""Statistics of each feature over the tables of several days."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc


class Summary:
    """Mean, nulls and extremes of each feature, over tables that pass one at a time."""

    def __init__(self, names: Sequence[str]) -> None:
        self._rows, self._values, self._sums = 0, dict.fromkeys(names, 0), dict.fromkeys(names, 0.0)
        self._low, self._high = dict.fromkeys(names, math.inf), dict.fromkeys(names, -math.inf)

    def of(self, tables: Iterable[tuple[str, pa.Table]]) -> Iterator[tuple[str, pa.Table]]:
        """The same tables. Each is counted as it passes."""
        for day, table in tables:
            self._rows += table.num_rows
            for name in self._sums:
                column = table.column(name)
                self._values[name] += table.num_rows - column.null_count
                self._sums[name] += pc.sum(column).as_py() or 0.0
                extremes = pc.min_max(column).as_py()
                if extremes["min"] is not None:
                    self._low[name] = min(self._low[name], extremes["min"])
                    self._high[name] = max(self._high[name], extremes["max"])
            yield day, table

    def lines(self) -> list[tuple[str, float, str]]:
        """Name, mean and share of nulls of each feature."""
        rows = max(self._rows, 1)
        return [
            (n, total / max(self._values[n], 1), f"{(self._rows - self._values[n]) / rows:.1%}")
            for n, total in self._sums.items()
        ]

    def empty(self) -> list[str]:
        """The features that are null in every row."""
        return [name for name, values in self._values.items() if self._rows and not values]

    def outside(self, ranges: Mapping[str, tuple[float, float]]) -> list[str]:
        """The features with an infinite value or a value outside their range, with their extremes."""
        found = []
        for name in (n for n, values in self._values.items() if values):
            low, high = ranges.get(name, (-math.inf, math.inf))
            smallest, largest = self._low[name], self._high[name]
            if smallest < low or largest > high or math.isinf(smallest) or math.isinf(largest):
                found.append(f"{name} from {smallest} to {largest}")
        return found
