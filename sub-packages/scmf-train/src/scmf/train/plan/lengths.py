"""Lengths of cells where there is no store yet. In: a number, or a file. Out: an array of tokens a cell."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

import numpy as np
import numpy.typing as npt

from scmf.core.errors import InputError

LongArray = npt.NDArray[np.int64]
_FIX = "a number of tokens; a text file with one a line; .npy; or a .parquet of scmf-store tokens (column length)"


def read_lengths(given: str) -> LongArray:
    """Tokens of cells, (n,) int64.

    Args:
        given: `--lengths`: a number, for cells that are all alike, or the path of a file of numbers.

    Raises:
        InputError: no such file, or one that does not hold lengths.
    """
    if given.isdecimal():
        return _checked(np.array([int(given)]), given)
    path = Path(given)
    if not path.is_file():
        raise InputError(f"{given!r} is neither a number nor a file", where="--lengths", fix=f"give {_FIX}")
    try:
        return _checked(_read(path), given)
    except (ValueError, KeyError, OSError, EOFError) as error:
        raise InputError(
            f"this file does not hold lengths: {str(error).splitlines()[0]}", where=str(path), fix=f"give {_FIX}"
        ) from error


def _read(path: Path) -> npt.NDArray[np.generic]:
    if path.suffix == ".npy":
        return np.asarray(np.load(path, allow_pickle=False))
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return np.asarray(pq.read_table(path, columns=["length"])["length"].to_numpy())
    return np.array(path.read_text(encoding="utf-8").split(), np.float64)


def _checked(lengths: npt.NDArray[np.generic], given: str) -> LongArray:
    values = np.asarray(lengths)
    whole = values.ndim == 1 and values.size > 0 and np.issubdtype(values.dtype, np.number)
    if not whole or not (np.isfinite(values) & (values >= 0) & (values == np.floor(values))).all():
        raise InputError(
            "lengths are whole numbers of tokens, in one row, at least one of them",
            where=f"--lengths {quote(given)}",
            fix=f"give {_FIX}",
        )
    filled = values[values > 0].astype(np.int64)
    if not len(filled):
        raise InputError("every cell has 0 tokens", where=f"--lengths {quote(given)}", fix=f"give {_FIX}")
    return filled
