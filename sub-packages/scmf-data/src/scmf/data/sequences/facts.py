"""What a store of sequences holds, in words. In: the store. Out: lines for people, and facts for programs."""

from __future__ import annotations

from typing import Any

from scmf.data.characters import CharVocabulary
from scmf.data.sequences.manifest import SequenceManifest
from scmf.data.sequences.store import SequenceStore


def describe_store(store: SequenceStore) -> list[str]:
    """The facts, a line each."""
    manifest, vocabulary = store.manifest, store.vocabulary
    mean = manifest.n_tokens / max(1, manifest.n_sequences)
    what = "text, one token a character" if manifest.content == "text" else "ready tokens"
    lines = [
        f"content      {what}",
        f"sequences    {manifest.n_sequences:,} ({mean:,.0f} tokens a sequence, {manifest.longest:,} at most)",
        f"tokens       {manifest.n_tokens:,} ({manifest.ids_dtype})",
        f"vocabulary   {vocabulary.name}: {len(vocabulary):,} ids",
    ]
    if isinstance(vocabulary, CharVocabulary):
        lines.append(f"characters   {_shown(vocabulary.characters)}")
    lines += [
        f"parts        {len(manifest.parts)}",
        f"size         {manifest.n_bytes / 1e6:,.1f} MB",
        f"fingerprint  {manifest.fingerprint}",
    ]
    for source in manifest.sources:
        here = (
            f"sequences {source.first_sequence:,} to {source.first_sequence + source.n_sequences - 1:,}, "
            f"{source.n_tokens:,} tokens"
            if source.n_sequences
            else "-"
        )
        lines.append(f"source       {source.name}: {here}, xxh3 {source.checksum}")
    return lines


def facts_of(manifest: SequenceManifest) -> dict[str, Any]:
    """The facts as JSON holds them."""
    facts = manifest.model_dump(mode="json", exclude={"parts"})
    return facts | {
        "n_parts": len(manifest.parts),
        "bytes": manifest.n_bytes,
        "fingerprint": manifest.fingerprint,
    }


def _shown(characters: str, most: int = 100) -> str:
    """The characters as Python would write them, the first ones of many."""
    more = f" and {len(characters) - most:,} more" if len(characters) > most else ""
    return f"{characters[:most]!r}{more}"
