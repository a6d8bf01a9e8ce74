"""Cells by a rule over obs. In: a store and rules such as `cell_type=B cell` or `age>=65`. Out: a mask of its cells.

A rule is COLUMN, an operator and a value. `=` and `!=` take several values between commas, and compare as text;
`<`, `<=`, `>` and `>=` compare numbers. A cell whose value is missing fulfils no rule, `!=` included.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import numpy as np
import numpy.typing as npt

from scmf.core.errors import StoreError

if TYPE_CHECKING:
    from scmf.data.store import CellGroups, CellStore

BoolArray = npt.NDArray[np.bool_]
Operator = Literal["=", "!=", "<", "<=", ">", ">="]

_RULE: Final = re.compile(r"^\s*(?P<column>[^=!<>]+?)\s*(?P<operator>!=|<=|>=|=|<|>)(?P<value>.*)$", re.DOTALL)
_FIX: Final = "write COLUMN=VALUE, COLUMN!=VALUE, or COLUMN>=NUMBER, such as --where 'cell_type=B cell'"


@dataclass(frozen=True, slots=True)
class Rule:
    """One condition on one column of obs."""

    column: str
    operator: Operator
    value: str
    """As written: one value, or several between commas."""


def parse_rule(text: str) -> Rule:
    """Read a rule; StoreError when it is none."""
    match = _RULE.match(text)
    if match is None or not match["value"].strip():
        raise StoreError(f"{text!r} is no rule", where="--where", fix=_FIX)
    rule = Rule(match["column"], cast("Operator", match["operator"]), match["value"].strip())
    if rule.operator not in {"=", "!="}:
        _number(rule)
    return rule


def select_cells(store: CellStore, rules: Sequence[str]) -> BoolArray:
    """(n_cells,) bool: the cells for which every rule holds. Memory: a few bytes a cell.

    Raises:
        StoreError: a text that is no rule, a column that obs does not have, a value that the column does not have.
    """
    chosen = np.ones(len(store), bool)
    for text in rules:
        rule = parse_rule(text)
        groups = store.obs_groups(rule.column)
        fits = np.append(_fits(rule, groups, store), False)  # the last entry serves code -1, a missing value
        chosen &= fits[groups.codes]
    return chosen


def select_any(store: CellStore, rules: Sequence[str]) -> BoolArray:
    """(n_cells,) bool: the cells for which at least one rule holds; errors as `select_cells`."""
    chosen = np.zeros(len(store), bool)
    for text in rules:
        chosen |= select_cells(store, [text])
    return chosen


def _fits(rule: Rule, groups: CellGroups, store: CellStore) -> BoolArray:
    """(groups,) bool: the values of the column that fulfil the rule."""
    if rule.operator in {"=", "!="}:
        named = np.isin(np.array(groups.names, object), _values(rule, groups, store))
        return named if rule.operator == "=" else ~named
    values = np.array([_as_number(name, rule, store) for name in groups.names], np.float64)
    compare: dict[str, Any] = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal}
    fits: BoolArray = compare[rule.operator](values, _number(rule))
    return fits


def _values(rule: Rule, groups: CellGroups, store: CellStore) -> list[str]:
    """Values that the rule names; the whole text where it is a value itself, commas and all."""
    if rule.value in groups.names:
        return [rule.value]
    values = [value.strip() for value in rule.value.split(",")]
    unknown = [value for value in values if value not in groups.names]
    if unknown:
        near = get_close_matches(unknown[0], groups.names, n=3, cutoff=0.4) or list(groups.names[:3])
        raise StoreError(
            f"{rule.column} has no value {unknown[0]!r} among its {len(groups.names):,}",
            where=f"{store.path}: obs column {rule.column}",
            fix=f"name one that is there, such as {', '.join(map(repr, near))}",
        )
    return values


def _number(rule: Rule) -> float:
    try:
        return float(rule.value)
    except ValueError:
        what = f"{rule.column}{rule.operator}{rule.value}: {rule.value!r} is no number"
        raise StoreError(what, where="--where", fix=_FIX) from None


def _as_number(name: str, rule: Rule, store: CellStore) -> float:
    try:
        return float(name)
    except ValueError:
        raise StoreError(
            f"{rule.column} holds {name!r}, which is no number to compare with {rule.operator}",
            where=f"{store.path}: obs column {rule.column}",
            fix=f"compare with {rule.column}=VALUE instead",
        ) from None
