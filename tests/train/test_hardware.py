"""Accelerators by name: the names that people and drivers give them, and what is not known."""

from __future__ import annotations

import math

import pytest

from scmf.core.errors import ConfigError
from scmf.train.hardware import HARDWARE, find_hardware, peak_flops, recognise


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA H200 NVL", "h200-nvl"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA A10", "a10"),
        ("Tesla V100-SXM2-32GB", "v100"),
    ],
)
def test_a_chip_is_known_by_what_its_driver_calls_it(driver, name):
    assert recognise(driver) is HARDWARE[name]


@pytest.mark.parametrize(
    "driver",
    [
        "cpu",
        "NVIDIA A10G",
        "NVIDIA GH200 480GB",
        "NVIDIA A100-SXM4-80GB MIG 1g.10gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 3090 Ti",
    ],
)
def test_a_chip_that_is_not_in_the_table_has_no_peak_instead_of_a_neighbours(driver):
    assert recognise(driver) is None
    assert math.isnan(peak_flops(driver, "bf16"))


def test_peaks_are_dense_and_by_precision():
    assert peak_flops("NVIDIA H200", "bf16") == 989e12
    assert peak_flops("NVIDIA H200", "fp8") == 1979e12
    assert math.isnan(peak_flops("NVIDIA A100-SXM4-80GB", "fp8"))
    with pytest.raises(ConfigError, match=r"A100 80 GB has no peak for trainer\.precision=fp8"):
        find_hardware("a100").peak_of("fp8")


def test_a_misspelt_name_is_answered_with_the_nearest_and_all_names():
    with pytest.raises(ConfigError, match="no hardware is called 'h20'") as caught:
        find_hardware("h20")
    assert caught.value.fix.startswith("did you mean --hardware h200?")
    with pytest.raises(ConfigError) as caught:
        find_hardware("quantum")
    assert "a100-40gb" in caught.value.fix
