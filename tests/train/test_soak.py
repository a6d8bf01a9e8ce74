"""The soaks, short: runs killed anywhere and resumed equal the run never cut; long runs stay as they began."""

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


def test_two_hundred_steps_leave_no_memory_behind(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    from support.ranks import run_ranks
    from support.soaking import soak_steps

    ((resident, cpu, table),) = run_ranks(soak_steps, 1, SCRIPTS, tmp_path, 200)
    assert len(resident) == len(cpu) == 200
    # Weak, because allocators round: a leak of a batch a step would be seen, one of a line of text would not.
    assert max(resident[100:]) - min(resident[100:]) < 64e6
    assert cpu == sorted(cpu)
    assert "| steps | 200 |" in table


def test_a_log_finds_a_leak_and_a_slowdown(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import soak_steps

    flat = soak_steps.Log([10**8] * 100, [0.1 * i for i in range(100)])
    assert flat.growth < 1.0
    assert abs(flat.slowdown - 1.0) < 1e-6
    leaking = soak_steps.Log([10**8 + 1000 * i for i in range(100)], [0.001 * i**2 for i in range(100)])
    assert abs(leaking.growth - 100_000) < 1.0
    assert leaking.slowdown > 10.0
