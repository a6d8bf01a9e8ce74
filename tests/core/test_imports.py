"""Imports that lint-imports does not see: by name, from a text."""

from __future__ import annotations

import re
from pathlib import Path

PACKAGES = Path(__file__).parents[2] / "sub-packages"
OWN_OBJECT = {
    "scmf/data/config.py": {"scmf.data.joined", "scmf.data.sequences.stream", "scmf.data.stream"},
    "scmf/model/config.py": {"scmf.model.transformer"},
}
"""A config builds its own object, and must not bring along what that needs: the circles that are wanted."""


def test_only_configs_import_ours_by_name():
    found = {}
    for path in PACKAGES.glob("*/src/scmf/**/*.py"):
        names = set(re.findall(r"""(?:import_module|__import__)\(\s*["'](scmf\.[\w.]+)""", path.read_text()))
        if names:
            found[path.relative_to(next(p for p in path.parents if p.name == "src")).as_posix()] = names
    assert found == OWN_OBJECT
