"""Sentences with numbers."""

from __future__ import annotations

import pytest

from scmf.core.text import counted


@pytest.mark.parametrize(
    ("n", "said"), [(0, "0 microbatches"), (1, "1 microbatch"), (2, "2 microbatches"), (12_000, "12,000 microbatches")]
)
def test_one_thing_is_not_called_several(n, said):
    assert counted(n, "microbatch", "microbatches") == said


def test_the_usual_plural_needs_no_mention():
    assert (counted(1, "replica"), counted(3, "replica")) == ("1 replica", "3 replicas")
