"""Identifiers and numbers from text and Arrow values."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.engine.ids import EXACT, ids_of_numbers, why_no_id
from mlops_assets.core.data.values.arrow_text import all_bytes, is_number, kept_where
from mlops_assets.core.data.values.value_rules import USUAL, Rules

SPACES = " \u00a0\u202f"  # the common space, the no-break space, and the narrow no-break space

_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
# A float column writes ids without leading zeros, and with zeros only after the point.
_FLOAT_ID = r"^-?(0|[1-9]\d*)\.0+$"
# The sign of the exponent keeps hexadecimal ids such as 12E45 out.
_RUINED_ID = r"^-?\d([.,]\d*)?[eE]\+\d{1,3}$"


def read_ids(array: pa.Array, rules: Rules) -> pa.Array | None:
    """Identifiers as text. A value that cannot be an identifier is null.

    `7.0` is the identifier 7 of a column that was written as floats, if a float holds the number exactly.
    Returns None for a type that holds no identifiers.
    """
    if not pa.types.is_string(array.type):
        return ids_of_numbers(array)
    data = all_bytes(array)
    if np.any(data == ord(".")):
        float_text = pc.match_substring_regex(array, _FLOAT_ID)
        number = kept_where(float_text, array).cast(pa.float64())
        exact = pc.fill_null(pc.less(pc.abs(number), float(EXACT[64])), True)
        whole = pc.replace_substring_regex(array, r"\.0+$", "")
        whole = pc.if_else(pc.equal(whole, "-0"), "0", whole)
        array = kept_where(exact, pc.if_else(float_text, whole, array))
    if np.any(data == ord("+")):
        array = kept_where(pc.invert(pc.match_substring_regex(array, _RUINED_ID)), array)
    return array


def why_unread_id(text: str) -> str:
    """Why a text is no identifier, and what to do."""
    if re.match(_FLOAT_ID, text):
        return why_no_id(float(text))
    return (
        "not an identifier; a spreadsheet took it for a number, and its last digits are lost: export the"
        " column as text"
    )


def read_numbers(array: pa.Array, rules: Rules) -> pa.Array | None:
    """Numbers as `float64`. A text that is no finite number is null.

    Returns None for a type that holds no numbers.
    """
    if pa.types.is_decimal(array.type):
        # Arrow's direct cast multiplies, and its result can be wrong in the last bit.
        return array.cast(pa.string()).cast(pa.float64())
    if is_number(array.type):
        return array.cast(pa.float64(), safe=False)
    if not pa.types.is_string(array.type):
        return None
    if (rules.decimal, rules.thousands) != (USUAL.decimal, USUAL.thousands):
        array = _with_point(array, rules)
    numbers = kept_where(pc.match_substring_regex(array, _NUMBER), array).cast(pa.float64())
    finite = pc.is_finite(numbers)
    return numbers if pc.all(finite).as_py() is not False else kept_where(finite, numbers)


def number_remedy(text: str, rules: Rules) -> str:
    """What to do about a text that is no number under the rules. Empty where no rule would help."""
    if re.match(rf"{_NUMBER}|^[+-]?(inf|infinity)$", text, re.IGNORECASE | re.ASCII) and rules.decimal == ".":
        return "it is not finite"
    comma = 'with a decimal comma set decimal = ","'
    ways = {
        (",", ""): comma,
        (".", ""): 'with a decimal point set decimal = "."',
        (".", ","): 'with commas between thousands set decimal = "." and thousands = ","',
        (",", "."): f'{comma} and thousands = "."',
        (rules.decimal, "'"): 'with apostrophes between thousands set thousands = "\'"',
        (rules.decimal, " "): 'with spaces between thousands set thousands = " "',
    }
    fitting = [
        way
        for (decimal, thousands), way in ways.items()
        if _fits(text, Rules(decimal=decimal, thousands=thousands))
    ]
    shown = 2 if re.match(r"^[+-]?\d{1,3}[.,]\d{3}$", text) else 1  # 1,234 can have both meanings.
    return f"{' or '.join(fitting[:shown])} under {rules.section}" if fitting else ""


def _with_point(array: pa.Array, rules: Rules) -> pa.Array:
    """The numbers with a decimal point and without thousands marks. Null where a mark is misplaced."""
    point = re.escape(rules.decimal)
    between = {"": "", " ": f"[{SPACES}]", "'": "['\u2019]"}.get(rules.thousands, re.escape(rules.thousands))
    grouped = rf"\d{{1,3}}(?:{between}\d{{2,3}})*{between}\d{{3}}|" if between else ""
    form = rf"^[+-]?(?:{grouped}\d*)(?:{point}\d*)?(?:[eE][+-]?\d+)?$"
    array = kept_where(pc.match_substring_regex(array, form), array)
    if between:
        array = pc.replace_substring_regex(array, between, "")
    return pc.replace_substring(array, rules.decimal, ".")


def _fits(text: str, rules: Rules) -> bool:
    numbers = read_numbers(pa.array([text]), rules)
    return numbers is not None and numbers.null_count == 0
