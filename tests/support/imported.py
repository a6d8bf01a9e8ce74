"""What commands and ranks use, imported and made ready once: processes that are forked from here have it at once."""

from __future__ import annotations

import gc
import importlib

from numba.core.registry import cpu_target

_MODULES = (
    "scmf.train.run",
    "scmf.train.dry_run",
    "scmf.data.ingest.convert",
    "scmf.data.medians",
    "scmf.eval.perplexity",
    "scmf.eval.text",
    "anndata",
    "zarr",
    "torch.distributed.checkpoint.state_dict_saver",
    # What torch's optimizers, numba's first call and pandas' first table import when they are used.
    "torch._dynamo",
    "scipy.linalg",
    "pyarrow.dataset",
)

for _module in _MODULES:
    importlib.import_module(_module)
cpu_target.target_context.refresh()  # numba's own tables: half a second of every process that calls a kernel
cpu_target.typing_context.refresh()
gc.collect()
gc.freeze()  # else every fork copies what its collector looks at
