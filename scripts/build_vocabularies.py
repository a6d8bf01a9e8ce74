"""Build the vocabularies that scmf ships from Geneformer's published dictionaries.

In: a folder with V1/ and V2/, each holding the token dictionary (JSON) and the median and Ensembl mapping
dictionaries (parquet). Out: one vocabulary file each.

    python scripts/build_vocabularies.py DICTIONARIES [--dest FOLDER]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from scmf.data.vocabulary import SHIPPED, Vocabulary

SOURCE = (
    "Geneformer {model} ({corpus}): token, median and Ensembl mapping dictionaries, whose sha256 are those of "
    "explorerwjy/Geneformer@dff467cb1535 on GitHub; Theodoris et al., Nature 2023. Facts: identifiers and medians. "
    "The mirrors state no licence; upstream is believed to be Apache-2.0"
)


def main() -> None:
    """Write geneformer-v1 and geneformer-v2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dictionaries", type=Path)
    parser.add_argument("--dest", type=Path, default=SHIPPED)
    arguments = parser.parse_args()
    for model, corpus, framed in (("V1", "gc30M", False), ("V2", "gc104M", True)):
        vocabulary = build(arguments.dictionaries / model, model=model, corpus=corpus, framed=framed)
        path = arguments.dest / f"{vocabulary.name}.parquet"
        vocabulary.save(path)
        print(f"{path}: {len(vocabulary):,} tokens, {len(vocabulary.aliases):,} aliases")


def build(folder: Path, *, model: str, corpus: str, framed: bool) -> Vocabulary:
    """Make one vocabulary; ids keep the published order."""
    token = json.loads((folder / f"token_dictionary_{corpus}.json").read_text())
    names = sorted(token, key=lambda name: token[name])
    if [token[name] for name in names] != list(range(len(names))):
        raise ValueError(f"{folder}: tokens are not 0..{len(names) - 1}")
    specials = tuple(name for name in names if name.startswith("<"))
    genes = tuple(names[len(specials) :])
    median = read_dictionary(folder / f"gene_median_dictionary_{corpus}.parquet")
    mapping = read_dictionary(folder / f"ensembl_mapping_dict_{corpus}.parquet")
    known = set(genes)
    # The published mapping also has symbols as keys; a store's genes are Ensembl ids: only those are kept.
    aliases = {old: str(new) for old, new in mapping.items() if old != new and old.startswith("ENS") and new in known}
    return Vocabulary(
        name=f"geneformer-{model.lower()}",
        version=corpus,
        specials=specials,
        gene_ids=genes,
        medians=np.array([median[gene] for gene in genes]),
        aliases=aliases,
        framed=framed,
        source=SOURCE.format(model=model, corpus=corpus),
    )


def read_dictionary(path: Path) -> dict[str, str] | dict[str, float]:
    """Read a two-column parquet table as a dictionary."""
    keys, values = pq.read_table(path).columns
    return dict(zip(keys.to_pylist(), values.to_pylist(), strict=True))


if __name__ == "__main__":
    main()
