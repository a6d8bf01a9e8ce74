"""A TileDB-SOMA experiment as a source (CELLxGENE Census is one). In: a local folder. Out: its layers and tables.

Needs the extra `soma`. Entries of a layer come in row-major order and are copied to flat files first, as text is,
since conversion cuts its parts by position. Cells and genes are numbered by `soma_joinid`, which may have gaps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from scmf.core.errors import ScmfError
from scmf.data.ingest.findings import refuse
from scmf.data.ingest.source import Matrix, ReadWishes, Source, first_line, likelihood
from scmf.data.ingest.spool import Shape, Spool, SpoolWriter, Triples
from scmf.data.ingest.table import FrameTable, Table, zarr_names

Array = npt.NDArray[Any]

JOIN: Final = "soma_joinid"
_NAMES: Final = ("obs_id", "var_id", "feature_id", "barcode", "index")
"""Columns that name cells or genes, the likeliest first."""
_BUFFER: Final = str(32 << 20)
"""Bytes that TileDB reads into, a column."""


class SomaSource(Source):
    """An open SOMA experiment; a context manager."""

    format: ClassVar[str] = "TileDB-SOMA"

    def __init__(self, path: Path, wishes: ReadWishes) -> None:
        super().__init__(path)
        self._wishes = wishes
        self._spools: list[Spool] = []
        self._soma = _library(path)
        self._experiment = self._opened()
        self._cells = self._joinids(self._experiment.obs)
        self._genes = {name: self._joinids(self._experiment.ms[name].var) for name in self._experiment.ms}
        self._matrices: dict[str, Matrix] = {}

    def close(self) -> None:
        """Close the experiment and remove copies that nobody else owns."""
        self._experiment.close()
        for spool in self._spools:
            spool.close()

    def matrices(self) -> dict[str, Matrix]:
        """Layers of every measurement as MEASUREMENT/LAYER, those called raw or counts first."""
        if not self._matrices:
            layers = [(m, x) for m in self._experiment.ms for x in self._experiment.ms[m].X]
            layers.sort(key=lambda mx: (likelihood(mx[1]), mx))
            self._matrices = {f"{m}/{x}": self._layer(m, x) for m, x in layers}
        if not self._matrices:
            raise refuse("D002", "the experiment has no layer X", where=str(self.path))
        return self._matrices

    def must_name(self) -> str | None:
        """Several measurements (RNA, protein) are not chosen among in silence."""
        names = list(self._experiment.ms)
        return None if len(names) < 2 else f"the experiment holds {len(names)} measurements: {', '.join(names)}"

    def obs(self) -> SomaTable:
        """Table of the cells, read row by row."""
        return SomaTable(self._experiment.obs, self._cells, self.path)

    def var(self, element: str) -> FrameTable:
        """Table of the genes of a layer's measurement."""
        frame = self._experiment.ms[element.partition("/")[0]].var.read().concat().to_pandas().sort_values(JOIN)
        name = next((n for n in _NAMES if n in frame), JOIN)
        return FrameTable(frame.set_index(name, drop=False).drop(columns=[JOIN], errors="ignore"))

    def files(self) -> tuple[Path, ...]:
        """Every file of the experiment."""
        return tuple(sorted(p for p in self.path.rglob("*") if p.is_file()))

    def _opened(self) -> Any:
        context = self._soma.SOMATileDBContext(tiledb_config={"soma.init_buffer_bytes": _BUFFER})
        try:
            opened = self._soma.open(str(self.path), context=context)
        except Exception as error:  # TileDB's own kinds of error
            what = f"the folder is no SOMA object that can be opened: {first_line(error)}"
            raise refuse("D002", what, where=str(self.path)) from error
        if not isinstance(opened, self._soma.Experiment):
            opened.close()
            what = f"the folder is a SOMA {type(opened).__name__}, not an experiment"
            raise refuse("D002", what, where=str(self.path), fix="name the folder of the experiment")
        return opened

    def _joinids(self, frame: Any) -> npt.NDArray[np.int64]:
        """(rows,) int64 numbers of a table's rows, rising."""
        with _asking(self.path, "its tables"):
            pieces = [t.column(JOIN).to_numpy() for t in frame.read(column_names=[JOIN])]
        return np.sort(np.concatenate([np.empty(0, np.int64), *pieces]))

    def _layer(self, measurement: str, layer: str) -> Matrix:
        node, element = self._experiment.ms[measurement].X[layer], f"{measurement}/{layer}"
        if not isinstance(node, self._soma.SparseNDArray):
            raise refuse("D003", "the layer is no sparse array", where=f"{self.path}: {element}")
        genes, n_values = self._genes[measurement], int(node.nnz)
        spool = Spool(self.path, scratch=self._wishes.scratch, key=f"{element} {_state(self.files())}")
        self._spools.append(spool)

        def unpacked() -> Matrix:
            shape = spool.unpack(lambda writer: self._copy(node, genes, writer, element))
            return spool.matrix(shape, path=self.path, cells_in="rows")

        parts = [_Later(lambda m: m.values, unpacked, (n_values,), np.float64)]
        parts += [_Later(lambda m: m.minor(), unpacked, (n_values,), np.int32)]
        parts += [_Later(lambda m: m.starts(), unpacked, (len(self._cells) + 1,), np.int64)]
        return Matrix(element, "csr", len(self._cells), len(genes), self.path, *parts)

    def _copy(self, node: Any, genes: Array, writer: SpoolWriter, element: str) -> Shape:
        """Entries of a layer, row by row, with the numbers of rows and columns in place of joinids."""
        where = f"{self.path}: {element}"
        with _asking(self.path, element):
            for table in node.read(result_order="row-major").tables():
                rows = _places(self._cells, table.column("soma_dim_0").to_numpy(), where)
                columns = _places(genes, table.column("soma_dim_1").to_numpy(), where)
                values = table.column("soma_data").to_numpy().astype(np.float64)
                writer.put(Triples(rows.astype(np.int32), columns.astype(np.int32), values))
        if writer.n_values != node.nnz or writer.order != "rows":
            what = f"the layer says that it has {node.nnz:,} values, and gives {writer.n_values:,}"
            raise refuse("D016", what, where=where, fix="consolidate and vacuum the array with tiledbsoma")
        return Shape(len(self._cells), len(genes), writer.n_values, "rows")


class _Later:
    """An array of a layer that is copied to flat files when its first element is asked for."""

    def __init__(
        self, pick: Callable[[Matrix], Any], unpacked: Callable[[], Matrix], shape: tuple[int, ...], dtype: Any
    ) -> None:
        self._pick, self._unpacked = pick, unpacked
        self._node: Any = None
        self.shape, self.dtype = shape, np.dtype(dtype)

    def __getitem__(self, rows: slice) -> Any:
        if self._node is None:
            self._node = self._pick(self._unpacked())
        return self._node[rows]


class SomaTable(Table):
    """obs of an experiment, read by runs of joinids."""

    def __init__(self, frame: Any, joinids: npt.NDArray[np.int64], path: Path) -> None:
        """Take the open table and its rows' numbers, rising."""
        if tuple(frame.index_column_names) != (JOIN,):
            what = f"obs is indexed by {', '.join(frame.index_column_names)}, not by {JOIN}"
            raise refuse(
                "D002", what, where=f"{path}: obs", fix=f"write the experiment again with obs indexed by {JOIN}"
            )
        self._frame, self._joinids, self._path = frame, joinids, path
        names = [n for n in frame.keys() if n != JOIN]  # noqa: SIM118  # not a dict: iteration gives something else
        self._index = next((n for n in _NAMES if n in names), JOIN)
        self.columns = tuple(n for n in names if n != self._index)

    def __len__(self) -> int:
        return len(self._joinids)

    def index(self, start: int = 0, stop: int | None = None) -> Array:
        """(rows,) object array of the cells' names, or of their joinids."""
        return np.array([str(v) for v in self._rows([self._index], start, stop)[self._index]], dtype=object)

    def column(self, name: str, start: int = 0, stop: int | None = None) -> Any:
        """(rows,) values of a column."""
        return self._rows([name], start, stop)[name].array

    def frame(self, start: int, stop: int) -> pd.DataFrame:
        """Rows start..stop with all columns, in one request."""
        rows = self._rows([self._index, *self.columns], start, stop)
        frame = rows[list(self.columns)].set_axis(pd.Index(rows[self._index].astype(str), dtype=object))
        return frame.rename_axis(None).rename(columns=zarr_names(self.columns))

    def _rows(self, columns: list[str], start: int, stop: int | None) -> pd.DataFrame:
        wanted = self._joinids[start:stop]
        if not len(wanted):
            return pd.DataFrame({name: np.empty(0, object) for name in columns})
        names = list(dict.fromkeys([JOIN, *columns]))
        with _asking(self._path, "obs"):
            run = slice(int(wanted[0]), int(wanted[-1]))  # both ends belong to it
            return self._frame.read(coords=(run,), column_names=names).concat().to_pandas().sort_values(JOIN)


class _asking:  # noqa: N801  # reads as a verb
    """Turns TileDB's complaints into a refusal that names the element."""

    def __init__(self, path: Path, element: str) -> None:
        self._where = f"{path}: {element}"

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ours = ScmfError | OSError | MemoryError | AttributeError | TypeError
        if isinstance(error, Exception) and not isinstance(error, ours):
            raise refuse("D016", f"it cannot be read: {first_line(error)}", where=self._where) from error


def _library(path: Path) -> Any:
    try:
        import tiledbsoma
    except ImportError as error:
        what = "this is a TileDB-SOMA folder, and tiledbsoma is not installed"
        raise refuse("D064", what, where=str(path), fix="pip install 'scmf-data[soma]'") from error
    return tiledbsoma


def _places(known: Array, joinids: Array, where: str) -> Array:
    """Row number of each joinid; InputError D015 for one that the table does not have."""
    places = np.searchsorted(known, joinids)
    if len(joinids) and (known[np.minimum(places, len(known) - 1)] != joinids).any():
        raise refuse("D015", "a value belongs to a joinid that the tables do not have", where=where)
    return places


def _state(files: tuple[Path, ...]) -> str:
    return " ".join(_facts(files))


def _facts(files: tuple[Path, ...]) -> Iterator[str]:
    for file in files:
        state = file.stat()
        yield f"{file} {state.st_size} {state.st_mtime_ns}"
