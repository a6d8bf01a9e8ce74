"""The soak of resumes with a few kills: runs killed anywhere and resumed in any layout equal the run never cut."""

from __future__ import annotations

from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "scripts"


def test_runs_killed_at_random_moments_and_resumed_with_other_ranks_and_workers_equal_the_runs_never_cut(
    tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(SCRIPTS)  # the ranks import it as well
    import soak_resume

    campaigns = soak_resume.soak(tmp_path, kills=3, steps=14, seed=3)
    assert sum(campaign.kills for campaign in campaigns) == 3
    assert [campaign.faults for campaign in campaigns] == [[], []]
    assert campaigns[0].worst == 0.0
    assert campaigns[1].worst < soak_resume.WITHIN
    assert not list(tmp_path.glob("run_*/checkpoints/.writing-*"))
