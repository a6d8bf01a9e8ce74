"""Accelerators that a run can be planned for: their names, and what they cannot compute."""

from __future__ import annotations

import pytest

from scmf.core.errors import ConfigError
from scmf.train.hardware import HARDWARE, find_hardware


def test_a_name_gives_memory_and_peak_in_any_case_of_its_letters():
    found = find_hardware("H200")
    assert (found.memory, found.peak("bf16")) == (141 * 10**9, 989.5e12)
    assert find_hardware("a100-40gb").peak("bf16") == find_hardware("a100").peak("bf16")


def test_every_name_has_a_precision_that_it_computes_fast():
    assert all(row.peak("fp16") > row.peak("fp32") > 0 for row in HARDWARE.values())


def test_a_misspelt_name_is_answered_with_the_nearest_and_all_names():
    with pytest.raises(ConfigError, match="no hardware is called 'h20'") as caught:
        find_hardware("h20")
    assert caught.value.fix.startswith("did you mean --hardware h200?")
    with pytest.raises(ConfigError) as caught:
        find_hardware("quantum")
    assert "a100-40gb" in caught.value.fix


@pytest.mark.parametrize(("name", "precision", "instead"), [("a100", "fp8", "bf16"), ("v100", "bf16", "fp16")])
def test_a_precision_that_a_chip_lacks_is_refused_with_one_that_it_has(name, precision, instead):
    with pytest.raises(ConfigError, match=f"no products in trainer.precision={precision}") as caught:
        find_hardware(name).peak(precision)
    assert caught.value.fix.startswith(f"use trainer.precision={instead}")
