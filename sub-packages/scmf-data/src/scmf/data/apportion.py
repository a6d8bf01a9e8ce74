"""Places of an epoch divided among groups. In: a share for each group. Out: places of each group in any epoch.

Rounding the same way in every epoch would starve small groups: a cell that is to come 0.4 times an epoch would never
come. So the boundaries between groups are moved by an offset before they are cut to whole places (systematic
sampling), and the offsets of the epochs fill the interval evenly, in the order of bit-reversed numbers. After any
number of epochs a group has had its share to within a few places, and how many it has had is counted without
going through the epochs.

Source: W. G. Madow, Annals of Mathematical Statistics 20 (1949), systematic sampling; J. G. van der Corput (1935).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

LongArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

_BITS: Final = 40
"""Of an offset, and of the number of an epoch: 2**40 epochs are never reached, and 2**-40 of a place is no place."""
_ONE: Final = 1 << _BITS
_WHOLE: Final = 1e-6
"""A boundary so near to a whole number is one: 120 places are not to be 119.99999999."""


class EpochPlaces(NamedTuple):
    """The places of one epoch: group g has those from `ends[g - 1]` (0 for the first) up to `ends[g]`."""

    ends: LongArray
    """(n_groups,) int64, not falling; the last is the number of places."""
    before: LongArray
    """(n_groups,) int64 places that each group has had in all epochs before."""

    @property
    def slots(self) -> LongArray:
        """(n_groups,) int64 places of each group."""
        return np.diff(self.ends, prepend=np.int64(0))


class Apportionment:
    """Shares of an epoch's places: each epoch to within one place, and over the epochs without a bias."""

    def __init__(self, shares: FloatArray, places: int, *, offset: int) -> None:
        """Find the boundaries: 16 bytes a group.

        Args:
            shares: (n_groups,) float64, not negative, sum above 0.
            places: of an epoch.
            offset: any number; its low 40 bits say where in the interval the epochs begin.
        """
        sums = np.cumsum(shares)
        edges = sums / sums[-1] * places  # the last is `places`, exactly
        near = np.rint(edges)
        edges = np.where(np.abs(edges - near) < _WHOLE, near, edges)
        self._whole: LongArray = np.floor(edges).astype(np.int64)
        # An edge is cut one place higher in the epochs whose offset is at least this.
        self._threshold: LongArray = _ONE - ((edges - self._whole) * _ONE).astype(np.int64)
        self._offset = offset % _ONE
        self._last: tuple[int, EpochPlaces] | None = None

    def epoch(self, number: int) -> EpochPlaces:
        """The places of an epoch, from 0; the last one asked for is kept."""
        last = self._last
        if last is None or last[0] != number:
            # One assignment: threads that ask for other epochs at the same time each have a whole answer.
            last = self._last = (number, self._places(number))
        return last[1]

    def _places(self, number: int) -> EpochPlaces:
        u = _reversed_bits(number) ^ self._offset
        ends = self._whole + (u >= self._threshold)
        total = number * self._whole + self._higher(number)
        return EpochPlaces(ends, np.diff(total, prepend=np.int64(0)))

    def _higher(self, epochs: int) -> LongArray:
        """In how many of the first `epochs` each boundary was cut one place higher. (n_groups,) int64.

        Numbers that differ in their low b bits only, 2**b in all, have offsets 2**-b apart: counted at once.
        """
        counted = np.zeros(len(self._threshold), np.int64)
        done = 0
        for b in reversed(range(epochs.bit_length())):
            if epochs >> b & 1:
                step = _ONE >> b
                lowest = (_reversed_bits(done) ^ self._offset) % step
                counted += (1 << b) - np.clip(-((lowest - self._threshold) // step), 0, 1 << b)
                done += 1 << b
        return counted


def _reversed_bits(number: int) -> int:
    """A number below 2**40 with its bits from last to first."""
    return int(f"{number:0{_BITS}b}"[::-1], 2)
