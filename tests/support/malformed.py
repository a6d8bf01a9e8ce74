"""What malformed inputs are made with: a list that they are put into by decorator, and two short names."""

from __future__ import annotations

import pytest

from support import zoo


def registry(animals):
    """A decorator for makers, which take an empty folder and return a source or several.

    Args:
        animals: list; gets (number of the finding, maker, wishes) of every maker.
    """

    def animal(number, **wishes):
        def add(make):
            animals.append(pytest.param(number, make, wishes, id=f"{number}-{make.__name__}"))
            return make

        return add

    return animal


def h5ad(folder, x=None, **what):
    return zoo.write(folder / "a.h5ad", zoo.cells(x, **what))


def raw(folder, content, name="a.h5ad"):
    (folder / name).write_bytes(content)
    return folder / name
