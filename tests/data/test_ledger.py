"""The ledger: it forgets no cell, errs at the stated rate, and stays within two bytes a cell."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.core.errors import StoreError
from scmf.data.ledger import Ledger
from scmf.data.order import permute

ABOUT = {"kind": "store", "store": "s", "id_space": "ensembl", "genes": "0" * 16}


def draw(n, *, purpose=0):
    return np.random.default_rng(purpose).integers(0, 2**64, n, np.uint64, endpoint=False)


@pytest.fixture(scope="module")
def many():
    """Half a million hashes and their ledger."""
    hashes = draw(500_000)
    return hashes, Ledger.of(hashes, **ABOUT)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 2**64 - 1), max_size=60), st.lists(st.integers(0, 2**64 - 1), max_size=60))
def test_what_was_put_in_is_always_found(first, second):
    first, second = np.array(first, np.uint64), np.array(second, np.uint64)
    ledger = Ledger.of(first, capacity=120, **ABOUT).plus(second)
    assert ledger.contains(first).all()
    assert ledger.contains(second).all()
    assert Ledger.from_bytes(ledger.to_bytes(), where="here").contains(first).all()


def test_half_a_million_cells_are_found_in_any_order_and_take_less_than_two_bytes_each(many):
    hashes, ledger = many
    assert ledger.contains(hashes).all()
    assert len(ledger.to_bytes()) / len(hashes) < 2


def test_other_cells_are_found_at_the_stated_rate(many):
    _, ledger = many
    n = 2_000_000
    found = int(ledger.contains(draw(n, purpose=1)).sum())
    expected = n * ledger.false_positive_rate
    assert ledger.false_positive_rate <= 1e-4
    assert abs(found - expected) < 5 * np.sqrt(expected)


@pytest.mark.parametrize("n", [1, 2, 3, 100, 1000, 3276, 3277, 50_000, 52_428, 52_429, 104_858])
def test_the_stated_rate_and_two_bytes_a_cell_hold_at_any_size(n):
    ledger = Ledger.of(draw(n), **ABOUT)
    assert 1 / 20_001 <= ledger.false_positive_rate <= 1e-4
    facts = len(ledger.to_bytes()) - ledger.nbytes
    assert facts < 250  # once a file
    assert ledger.nbytes <= 2 * n + 24


def test_hashes_on_disk_sorted_in_ranges_give_the_same_file(many):
    hashes, ledger = many
    assert Ledger.of(hashes, at_once=100_000, **ABOUT).to_bytes() == ledger.to_bytes()


def test_the_order_of_the_cells_does_not_matter(many):
    hashes, ledger = many
    assert Ledger.of(hashes[permute(np.arange(len(hashes)), n=len(hashes), key=3)], **ABOUT).to_bytes() == (
        ledger.to_bytes()
    )


def test_a_ledger_that_grows_is_the_one_made_at_once(many):
    hashes, ledger = many
    grown = Ledger.of(hashes[:0], capacity=len(hashes), **ABOUT)
    for piece in np.array_split(hashes, 7):
        grown = grown.plus(piece)
    assert grown.to_bytes() == ledger.to_bytes()


def test_every_flipped_byte_of_a_file_is_found_and_named(tmp_path):
    path = tmp_path / "a.ledger"
    Ledger.of(draw(100), **ABOUT).save(path)
    whole = path.read_bytes()
    for k in range(0, len(whole), 7):
        path.write_bytes(whole[:k] + bytes([whole[k] ^ 0x40]) + whole[k + 1 :])
        with pytest.raises(StoreError) as error:
            Ledger.load(path)
        assert str(path) in error.value.where
    for k in (0, 5, 12, 40, len(whole) - 1):
        path.write_bytes(whole[:k])
        with pytest.raises(StoreError):
            Ledger.load(path)


def test_a_missing_ledger_is_said_to_be_missing(tmp_path):
    with pytest.raises(StoreError, match="there is no ledger"):
        Ledger.load(tmp_path)


def test_a_ledger_written_long_ago_is_still_read():
    """The bytes of a file of format 1: a change that cannot read it needs another version."""
    ledger = Ledger.from_bytes(bytes.fromhex(RECORDED), where="here")
    assert ledger.contains(np.array([1, 2**40, 2**63, 2**64 - 1], np.uint64)).tolist() == [True] * 4
    assert ledger.to_bytes().hex() == RECORDED


RECORDED = (
    "53434d464c444701780000007b2276657273696f6e223a312c226b696e64223a2273746f7265222c2273746f7265223a2273"
    "222c2269645f7370616365223a22656e73656d626c222c2267656e6573223a2230303030303030303030303030303030222c"
    "226e5f63656c6c73223a332c2262697473223a31362c2272696365223a31337d000000000000000001000000000000000100"
    "fe7ff4ff0000a491aa418e962556b31c9375f2a12752"
)
