"""Numbers in text, compiled. In: bytes of a matrix-market file or of a table. Out: numbers, or the first fault.

Python reads ten million numbers in a second at best; a matrix of 10,000 cells has sixty million.
"""

from __future__ import annotations

from typing import Any, Final

import numba
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_NEWLINE: Final = 10
_RETURN: Final = 13
_SPACE: Final = 32
_TAB: Final = 9
_PERCENT: Final = 37
_QUOTE: Final = 34
_MOST_DIGITS: Final = 18
"""Digits that int64 holds; further ones only scale the number."""


@numba.njit(cache=True, nogil=True)
def _is_digit(byte: int) -> bool:
    return 48 <= byte <= 57


@numba.njit(cache=True, nogil=True)
def parse_number(text: Array, start: int, stop: int) -> tuple[float, int]:
    """One decimal number that begins at `start`.

    Args:
        text: (bytes,) uint8.
        start: first byte of the number.
        stop: end of the text.

    Returns:
        The number and the place of the first byte after it; the place is -1 where there is no number. Integers up
        to 2**53 are exact; others are right to the last digits of a float64.
    """
    place, sign = start, 1.0
    if place < stop and (text[place] == 45 or text[place] == 43):
        sign = -1.0 if text[place] == 45 else 1.0
        place += 1
    digits, mantissa, exponent, seen_point, seen = 0, np.int64(0), 0, False, False
    while place < stop and (_is_digit(text[place]) or (text[place] == 46 and not seen_point)):
        if text[place] == 46:
            seen_point = True
        else:
            seen = True
            if digits < _MOST_DIGITS:
                mantissa = mantissa * 10 + (text[place] - 48)
                digits += mantissa > 0
                exponent -= seen_point
            else:
                exponent += not seen_point
        place += 1
    if not seen:
        return 0.0, -1
    if place < stop and (text[place] == 101 or text[place] == 69):
        power, place = _parse_exponent(text, place + 1, stop)
        if place < 0:
            return 0.0, -1
        exponent += power
    value = float(mantissa)
    if exponent < 0:
        value = value / 10.0 ** min(-exponent, 320) if exponent > -320 else 0.0
    elif exponent > 0:
        value = value * 10.0 ** min(exponent, 320)
    return sign * value, place


@numba.njit(cache=True, nogil=True)
def _parse_exponent(text: Array, start: int, stop: int) -> tuple[int, int]:
    place, sign, power, seen = start, 1, 0, False
    if place < stop and (text[place] == 45 or text[place] == 43):
        sign = -1 if text[place] == 45 else 1
        place += 1
    while place < stop and _is_digit(text[place]):
        power = min(power * 10 + (text[place] - 48), 100_000)
        seen = True
        place += 1
    return sign * power, place if seen else -1


@numba.njit(cache=True, nogil=True)
def _skip_blanks(text: Array, place: int, stop: int) -> int:
    while place < stop and (text[place] == _SPACE or text[place] == _TAB or text[place] == _RETURN):
        place += 1
    return place


@numba.njit(cache=True, nogil=True)
def parse_triples(text: Array, rows: Array, columns: Array, values: Array, shape: tuple[int, int]) -> tuple[int, int]:
    """Lines `row column value` of a matrix-market file.

    Args:
        text: (bytes,) uint8, whole lines.
        rows: int32, filled from 0: the file counts from 1.
        columns: int32, likewise.
        values: float64.
        shape: rows and columns of the matrix.

    Returns:
        Entries read and -1; or entries read and the place of the line that is no entry or lies outside the shape.
    """
    place, stop, n = 0, text.shape[0], 0
    while place < stop:
        line = place
        place = _skip_blanks(text, place, stop)
        if place >= stop:
            break
        if text[place] == _NEWLINE:
            place += 1
            continue
        if text[place] == _PERCENT:
            while place < stop and text[place] != _NEWLINE:
                place += 1
            continue
        row, place = parse_number(text, place, stop)
        column, place = parse_number(text, _skip_blanks(text, place, stop), stop) if place >= 0 else (0.0, -1)
        value, place = parse_number(text, _skip_blanks(text, place, stop), stop) if place >= 0 else (0.0, -1)
        place = _skip_blanks(text, place, stop) if place >= 0 else -1
        inside = (
            1 <= row <= shape[0] and 1 <= column <= shape[1] and row == np.floor(row) and column == np.floor(column)
        )
        if place < 0 or not inside or (place < stop and text[place] != _NEWLINE):
            return n, line
        rows[n], columns[n], values[n] = np.int32(row) - 1, np.int32(column) - 1, value
        n += 1
        place += 1
    return n, -1


@numba.njit(cache=True, nogil=True)
def parse_fields(text: Array, separator: int, columns: Array, values: Array) -> tuple[int, int, int]:
    """Numbers of one line of a table; only those that are not zero are kept. An empty field or NA is NaN.

    Args:
        text: (bytes,) uint8, one line without its end and without the row's name.
        separator: byte between fields.
        columns: int32, filled with the numbers of the fields of the values kept.
        values: float64, filled with them.

    Returns:
        Fields of the line, values kept, and -1 or the place of a field that is no number.
    """
    place, stop, field, n = 0, text.shape[0], 0, 0
    while True:
        while place < stop and (text[place] == _SPACE or text[place] == _QUOTE) and text[place] != separator:
            place += 1
        value, after = parse_number(text, place, stop)
        if after < 0:
            after = _skip_missing(text, place, stop, separator)
            if after < 0:
                return field, n, place
            value = np.nan
        while after < stop and (text[after] == _SPACE or text[after] == _QUOTE) and text[after] != separator:
            after += 1
        if after < stop and text[after] != separator:
            return field, n, place
        if value != 0:
            if n >= values.shape[0]:
                return field + 1, n, -1
            columns[n], values[n] = field, value
            n += 1
        field += 1
        if after >= stop:
            return field, n, -1
        place = after + 1


@numba.njit(cache=True, nogil=True)
def _skip_missing(text: Array, start: int, stop: int, separator: int) -> int:
    """End of a field that is empty, NA, nan or inf in any case; -1 for other text."""
    place = start
    while place < stop and text[place] != separator and text[place] != _QUOTE:
        place += 1
    if place == start:
        return place
    first = text[start] | 32
    second = text[start + 1] | 32 if place > start + 1 else 0
    known = first == 110 and second in (97, 117)  # na, nan, null
    known = known or (first == 105 and second == 110)  # inf
    known = known or ((text[start] == 45 or text[start] == 43) and second == 105)  # -inf
    return place if known and place - start <= 9 else -1
