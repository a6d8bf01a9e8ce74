"""Faults that people, editors and programs make in configurations. In: a recipe's document. Out: bytes of a file.

Used by fuzz_config.py. A mutation of the tree changes keys, values and structure; one of the text changes what only
the written file has: encodings, indentation, tags, anchors, other documents.
"""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import yaml

Tree = dict[str, Any]

_TEXTS: Final = (
    "", " ", "null", "true", "yes", "1", "1e-3", "auto", "cells", "encoder", "mlm", "rank", "../../etc/passwd", "a\nb",
    "\x1b[31mred", "\x00", "\u2028", "\u202eabc", "\ufeff", "\ud800", "é" * 40, "x" * 100_000, "s3://bucket/key",
    "{a: 1}", "%s {0} {x}", "'\"`$(true)", "data/store\\", "#", "- a", "a: b",
)  # fmt: skip
"""What text may hold; the escape sequences would write to a terminal, the lone surrogate is no Unicode text."""

KINDS: Final = (
    "cells", "sequences", "encoder", "decoder", "mlm", "clm", "classify", "regress", "several", "rank", "char", "muon",
    "cell", "Cells", "os.system", "os.path.join", "collections.OrderedDict", "scmf.train.config.MainConfig", "a..b",
    ".", "..", "a.", ".a", "scmf", "scmf.data.config.CellsConfig", "scmf.data.config.DataConfig",
    "no_such_package.Config", "scmf.data.config.Nothing", "a b.c", "1.2", "scmf.train.recipes.RECIPES", "é.è",
    "\x00.a", "builtins.dict", "adamw", "cosine", "x" * 300 + ".y", "scmf.core.config.Variant", "pydantic.BaseModel",
    "sys.exit", "a/b.c", "-.-",
)  # fmt: skip

_NUMBERS: Final = (
    0, 1, -1, 2, 3, 7, 0.5, -0.0, 1.0, 1.5, 1e-320, 1e308, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**30,
    10**400, float("inf"), float("-inf"), float("nan"), 0.1 + 0.2, 1e-12, 65_536, 65_537,
)  # fmt: skip

_OTHERS: Final[tuple[Any, ...]] = (
    None,
    True,
    False,
    [],
    {},
    [[]],
    [None],
    {"": 1},
    {"kind": "cells"},
    [1, "a", None],
    [{}],
)

_KEYS: Final = (
    "", " ", "kind", "Kind", "lr", "seed", "store", "max_steps", "model", "__class__", "model_config", "faults",
    "validate", "validation", "a.b", "a\nb", "\x1b[2J", "é", "on", "1", "x" * 3_000, "\u2028", "model_fields", "copy",
    "{}", "%s",
)  # fmt: skip


def value(draw: random.Random) -> Any:
    """Some value that a key could be given."""
    choice = draw.randrange(6)
    if choice == 0:
        return draw.choice(_TEXTS)
    if choice == 1:
        return draw.choice(KINDS)
    if choice == 2:
        return copy.deepcopy(draw.choice(_OTHERS))
    if choice == 3:
        return nested(draw, draw.choice((1, 2, 5, 31, 33, 60)))
    return draw.choice(_NUMBERS)


def nested(draw: random.Random, depth: int) -> Any:
    """A value so many lists or sections deep."""
    inner: Any = draw.choice(_NUMBERS)
    for _ in range(depth):
        inner = [inner] if draw.random() < 0.5 else {draw.choice(_KEYS): inner}
    return inner


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every (section or list, key or position) of a document."""
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        yield tree, key
        yield from places(tree[key])


def _replace(tree: Tree, draw: random.Random) -> None:
    here, key = draw.choice(list(places(tree)))
    here[key] = value(draw)


def _scale(tree: Tree, draw: random.Random) -> None:
    numbers = [(h, k) for h, k in places(tree) if type(h[k]) in (int, float) and abs(h[k]) < 2**1000]
    if numbers:
        here, key = draw.choice(numbers)
        by = draw.choice((-1, 0, 2, 3, 0.5, 1e-9, 1e9, 1_000_003))
        here[key] = draw.choice((here[key] * by, here[key] + 1, str(here[key]), float(here[key])))


def _other_kind(tree: Tree, draw: random.Random) -> None:
    sections = [h[k] for h, k in places(tree) if isinstance(h[k], dict)]
    draw.choice(sections or [tree])["kind"] = draw.choice(KINDS)


def _add(tree: Tree, draw: random.Random) -> None:
    sections = [tree, *(h[k] for h, k in places(tree) if isinstance(h[k], dict))]
    draw.choice(sections)[draw.choice(_KEYS)] = value(draw)


def _remove(tree: Tree, draw: random.Random) -> None:
    here, key = draw.choice(list(places(tree)))
    del here[key]


def _rename(tree: Tree, draw: random.Random) -> None:
    here, key = draw.choice([place for place in places(tree) if isinstance(place[0], dict)])
    letters = list(key)
    at = draw.randrange(len(letters) + 1)
    letters[at : at + draw.randrange(3)] = draw.choice(("", "x", "-", " ", ".", "_", "\t", "ß"))
    here[draw.choice(("".join(letters), key.upper(), key + "s", draw.choice(_KEYS)))] = here.pop(key)


def _move(tree: Tree, draw: random.Random) -> None:
    (here, key), (there, other) = draw.choices(list(places(tree)), k=2)
    there[other] = copy.deepcopy(here[key])


_TREE_FAULTS: Final[tuple[Callable[[Tree, random.Random], None], ...]] = (
    _replace, _replace, _replace, _scale, _scale, _other_kind, _add, _remove, _rename, _move,
)  # fmt: skip


_TASKS: Final[Tree] = {"genes": {"kind": "mlm"}, "age": {"kind": "regress", "column": "age"}}
_SETTINGS: Final[Tree] = {"a": {"b.c": [1, None, 1.5, "x"]}, "": {}}
_SECTIONS: Final[tuple[tuple[str, Any], ...]] = (
    ("model.task", {"kind": "several", "tasks": _TASKS, "weights": {"age": 0.5}}),
    ("model.task", {"kind": "classify", "column": "cell_type", "classes": ["B", "T"]}),
    ("data.curriculum", {"by": "length", "steps": 100}),
    ("data.sampling", {"kind": "balanced", "by": "donor_id"}),
    ("data.order", {"kind": "blocks", "block": 16}),
    ("data.store", [{"path": "a", "weight": 1}, {"path": "b", "weight": 2.5}]),
    ("trainer.ema", {"decay": 0.99}),
    ("trainer.early_stop", {"patience": 3}),
    ("trainer.observers", [{"observer": "my_package.Watch", "settings": _SETTINGS}]),
    ("trainer.profile", {"tool": "nsys", "ranks": [0, 1]}),
    ("trainer.log", {"wandb": {"project": "p", "tags": ["a", "b"]}}),
    ("trainer.optimizer", {"kind": "sgd", "lr": 0.1}),
    ("trainer.schedule", {"kind": "plateau", "patience": 2}),
)
"""Sections that no recipe has."""


def _with_sections(tree: Tree, draw: random.Random) -> None:
    for key, inner in draw.sample(_SECTIONS, draw.choice((0, 0, 0, 1, 2))):
        section, name = key.split(".")
        if isinstance(tree.get(section), dict):
            tree[section][name] = copy.deepcopy(inner)


def broken_tree(tree: Tree, draw: random.Random) -> Tree:
    """A copy with up to four faults; sometimes with none."""
    broken = copy.deepcopy(tree)
    _with_sections(broken, draw)
    for _ in range(draw.choice((0, 1, 1, 1, 1, 2, 3))):
        if any(True for place in places(broken) if isinstance(place[0], dict)):
            draw.choice(_TREE_FAULTS)(broken, draw)
    return broken


_LINES: Final = (
    "a: &a [*a]", "<<: *base", "x: &x 1", "y: !!python/object/apply:os.system ['true']", "z: !!binary aGk=",
    "w: !own 1", "%YAML 1.1", "---", "...", "? [complex]", ": value", "\t- tab", "@at", "`tick`",
    "key: |\n  block\n  text", "a: 'open", 'b: "\\xZZ"', "c: {", "d: ]", "trainer: {}", "trainer:", "data: null",
    "  seed: 1", "model: {a: 1, a: 2}", "e: 0x10", "f: 1_000", "g: 1:30", "h: 2024-01-01", "i: " + "[" * 500,
    "j: " + "{a: " * 500, "k: " + "9" * 5_000, "l: 1e999999", "- item", "m: .inf", "n: 0o17", "o: !!set {a, b}",
    "p: !!timestamp 2001-01-01", "'q': 'r", "\u2028s: 1", "\x85t: 1",
)  # fmt: skip


def _line(text: str, draw: random.Random) -> str:
    lines = text.split("\n")
    lines.insert(draw.randrange(len(lines) + 1), draw.choice(_LINES))
    return "\n".join(lines)


def _twice(text: str, draw: random.Random) -> str:
    lines = text.split("\n")
    at = draw.randrange(len(lines))
    return "\n".join([*lines[: at + 1], *lines[at : at + draw.choice((1, 3, 20))], *lines[at + 1 :]])


def _indent(text: str, draw: random.Random) -> str:
    lines = text.split("\n")
    at = draw.randrange(len(lines))
    lines[at] = draw.choice((" ", "  ", "\t", "")) + (lines[at].lstrip() if draw.random() < 0.5 else lines[at])
    return "\n".join(lines)


def _letter(text: str, draw: random.Random) -> str:
    at = draw.randrange(len(text) + 1)
    return (
        text[:at]
        + draw.choice(":{}[],&*!|>'\"%@`#-? \n\t\x00\x1b\x7f\ufeff\u2028\ud800é0")
        + text[at + draw.randrange(2) :]
    )


def _deep(text: str, draw: random.Random) -> str:
    """A number inside of many lists."""
    levels = draw.choice((33, 300, 3_000, 100_000))
    return re.sub(r"\b\d+\b", lambda number: "[" * levels + number[0] + "]" * levels, text, count=1)


def _cut(text: str, draw: random.Random) -> str:
    return text[: draw.randrange(len(text) + 1)]


_TEXT_FAULTS: Final[tuple[Callable[[str, random.Random], str], ...]] = (
    _line,
    _line,
    _twice,
    _indent,
    _letter,
    _letter,
    _deep,
    _cut,
)


def broken_text(text: str, draw: random.Random) -> str:
    """Text with up to three faults; most often with none."""
    for _ in range(draw.choice((0, 0, 0, 0, 0, 1, 2))):
        text = draw.choice(_TEXT_FAULTS)(text, draw)
    return text


def encoded(text: str, draw: random.Random) -> bytes:
    """Bytes of a file: UTF-8 most often, other encodings, other line ends, broken bytes."""
    name = draw.choice(("utf-8",) * 40 + ("utf-8-sig", "utf-16", "utf-32", "latin-1", "cp1252", "utf-7"))
    if draw.random() < 0.1:
        text = text.replace("\n", draw.choice(("\r\n", "\r")))
    raw = bytearray(text.encode(name, errors="surrogatepass" if name == "utf-8" else "replace"))
    if draw.random() < 0.05 and raw:
        raw[draw.randrange(len(raw))] ^= draw.randrange(1, 256)
    return bytes(raw)


def written(tree: Tree, draw: random.Random, *, suffix: str) -> str:
    """A tree as text: by PyYAML in one of its styles, or as JSON, whatever the suffix says in one of twenty."""
    if (suffix == ".json") != (draw.random() < 0.05):
        return json.dumps(tree, indent=draw.choice((None, 2)), ensure_ascii=draw.random() < 0.5)
    return yaml.safe_dump(tree, default_flow_style=draw.choice((False, None)), allow_unicode=True, sort_keys=False)


def overrides(tree: Tree, draw: random.Random) -> list[str]:
    """Words of a command line: none most often."""
    return [_word(tree, draw) for _ in range(draw.choice((0, 0, 0, 0, 1, 2)))]


def _word(tree: Tree, draw: random.Random) -> str:
    dotted = list(_dotted(tree)) or ["trainer.seed"]
    key = draw.choice(
        (
            *dotted,
            *dotted,
            *_KEYS[:12],
            "data.",
            ".model",
            "trainer..lr",
            "trainer.ema",
            "data.split",
            "data" + ".a" * 2_000,
        )
    )
    texts = (
        "",
        " ",
        "null",
        "[1, 2]",
        "{a: 1}",
        "{kind: constant}",
        "&a 1",
        "!!python/name:os.system x",
        "[",
        "'",
        "1e-3",
    )
    given = draw.choice((*texts, json.dumps(value(draw)), str(draw.choice(_NUMBERS))))
    return draw.choice(
        (f"{key}={given}",) * 8 + (key, f"--{key}={given}", f"={given}", f"{key}=={given}", f"{key} = {given}")
    )


def _dotted(tree: Any, prefix: str = "") -> Iterator[str]:
    for key, inner in tree.items() if isinstance(tree, dict) else ():
        yield f"{prefix}{key}"
        yield from _dotted(inner, f"{prefix}{key}.")
