"""Ranks: started by scmf-train itself, by torchrun, and by a Slurm step; stopped together."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from scmf.core.errors import MachineError
from scmf.train.launch import PORTS, free_port, under_launcher
from scmf.train.world import lost_contact, read_environment
from support.command import command, curve, environment, last_step, run, succeed, three_lines
from support.real import real_config, write_config
from support.warm import warm_programs

SHORT = ["trainer.max_steps=4", "trainer.checkpoint.every=4", "trainer.schedule.warmup_steps=1"]
TENSOR = "trainer.parallel.tensor=2"


@pytest.fixture(scope="module")
def config(demo_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("launch")
    return write_config(real_config(demo_store.path, folder / "unused", *SHORT, TENSOR), folder / "cfg.yaml")


@pytest.fixture(scope="module")
def own(config, tmp_path_factory):
    """Two ranks that scmf-train starts itself."""
    directory = tmp_path_factory.mktemp("own") / "run"
    out = succeed("scmf-train", "--config", config, "trainer.devices=2", f"trainer.result_dir={directory}")
    assert "ranks  2 = tensor 2 x pipeline 1 x data 1" in out
    assert "(" not in next(line for line in out.splitlines() if "ranks  2" in line)
    return directory


def torchrun(*options, config, words):
    """torchrun with two ranks of scmf-train on this machine, as an argument list."""
    place = ["--nproc-per-node", "2", "--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    module = ["-m", "scmf.train.cli_train", "--config", str(config), *words]
    return [sys.executable, "-m", "torch.distributed.run", *place, *options, *module]


def test_a_port_for_the_ranks_is_never_one_that_an_outgoing_connection_may_take():
    first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(1024 < free_port() < min(first_outgoing, 32_768) for _ in range(50))


def test_torchrun_starts_the_same_run_and_a_rank_that_is_killed_starts_it_again_from_its_checkpoint(
    config, own, tmp_path
):
    (tmp_path / "killed.py").write_text(
        "import os, signal\n"
        "from scmf.data.config import CellsConfig\n"
        "class Once(CellsConfig):\n"
        '    """Kills rank 1 of the first start when it asks for the third step."""\n'
        "    def open(self, **place):\n"
        "        stream = super().open(**place)\n"
        "        step = stream.step\n"
        "        def killing(seen):\n"
        "            if seen == 16 and (os.environ['RANK'], os.environ['TORCHELASTIC_RESTART_COUNT']) == ('1', '0'):\n"
        "                os.kill(os.getpid(), signal.SIGKILL)\n"
        "            return step(seen)\n"
        "        stream.step = killing\n"
        "        return stream\n"
    )
    words = ["data.kind=killed.Once", "data.workers=0", "trainer.checkpoint.every=1"]
    result = subprocess.run(
        torchrun("--max-restarts", "1", config=config, words=[f"trainer.result_dir={tmp_path / 'run'}", *words]),
        env=environment(GLOO_SOCKET_IFNAME="lo", PYTHONPATH=str(tmp_path), PYTHON_EXEC=str(warm_programs() / "python")),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "resumed at step 1 after 8 cells" in result.stdout or "resumed at step 2 after 16 cells" in result.stdout
    assert curve(tmp_path / "run") == curve(own)


def test_torchrun_passes_sigterm_on_and_the_ranks_save_and_say_so_in_the_log_while_its_own_code_is_1(config, tmp_path):
    directory = tmp_path / "run"
    words = [f"trainer.result_dir={directory}", "trainer.max_steps=4000", "trainer.checkpoint.every=4000"]
    launcher = subprocess.Popen(
        torchrun("--shutdown-timeout", "200", config=config, words=words),
        env=environment(GLOO_SOCKET_IFNAME="lo"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while last_step(directory) < 2:
            assert launcher.poll() is None
            time.sleep(0.05)
        launcher.terminate()
        assert launcher.wait(timeout=240) == 1  # a scheduler does not see the 75 of the ranks
    finally:
        if group_lives(launcher.pid):
            os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait()
    step = last_step(directory)
    said = (directory / "log.txt").read_text().splitlines()[-1]
    assert said.endswith(f"asked to end: saved at step {step}, exit code 75; --resume auto goes on")
    alone = [f"trainer.result_dir={directory}", f"trainer.max_steps={step + 1}", "trainer.parallel.tensor=1"]
    out = succeed("scmf-train", "--config", config, "--resume", "auto", *alone)
    assert f"resumed at step {step} after {8 * step} cells" in out
    assert last_step(directory) == step + 1


LAUNCHER = """
import subprocess, sys
from scmf.train import launch
launch._start = lambda rank, *_: subprocess.Popen([sys.executable, "-c", sys.argv[1 + rank]])
sys.exit(launch.run_ranks(2, []))
"""
SAVING = """
import os, signal, sys, time
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda number, _: (os.write(1, b"saves after %d\\n" % number), sys.exit(75)))
os.write(1, b"ready\\n")
time.sleep(600)
"""
STUCK = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.write(1, b"%d\\n" % os.getpid())
time.sleep(600)
"""


@contextmanager
def launched(*ranks):
    """The launcher with these programs as its ranks; nothing of it outlives the block."""
    arguments = [sys.executable, "-c", LAUNCHER, *ranks]
    launcher = subprocess.Popen(arguments, env=environment(), stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        yield launcher
    finally:
        if group_lives(launcher.pid):
            os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait()
        launcher.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_the_launcher_reaches_every_rank_and_their_code_is_its_own(number):
    with launched(SAVING, SAVING) as launcher:
        assert [launcher.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
        launcher.send_signal(number)
        assert [launcher.stdout.readline() for _ in range(2)] == [f"saves after {int(number)}\n"] * 2
        assert launcher.wait(timeout=120) == 75


def test_a_rank_that_is_left_in_a_collective_is_killed_after_the_first_one_has_failed():
    with launched(STUCK, "raise SystemExit(3)") as launcher:
        stuck = int(launcher.stdout.readline())
        assert launcher.wait(timeout=120) == 3
        with pytest.raises(ProcessLookupError):
            os.kill(stuck, 0)


def test_a_rank_that_the_kernel_has_killed_is_named_and_its_signal_is_the_exit_code():
    programs = ["raise SystemExit(1)", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
    result = subprocess.run(
        [sys.executable, "-c", LAUNCHER, *programs],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 137
    what, _, fix = three_lines(result)
    assert what == "rank 1 was ended by SIGKILL"
    assert "--resume auto" in fix


def test_a_slurm_step_on_two_nodes_starts_the_same_run(config, own, tmp_path):
    """Both nodes are this machine: what they read of Slurm is that of two."""

    def step(rank):
        slurm = {
            "SLURM_STEP_NUM_TASKS": "2",
            "SLURM_PROCID": str(rank),
            "SLURM_LOCALID": "0",
            "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
            "SLURM_STEP_NODELIST": "127.0.0.1,127.0.0.2",
            "MASTER_PORT": str(port),
        }
        words = ["trainer.nodes=2", "trainer.devices=1", f"trainer.result_dir={tmp_path / 'run'}"]
        arguments = [warm_programs() / "scmf-train", "--config", config, *words]
        return subprocess.Popen(arguments, env=environment(GLOO_SOCKET_IFNAME="lo", **slurm))

    port = free_port()
    assert [process.wait(timeout=240) for process in [step(0), step(1)]] == [0, 0]
    assert curve(tmp_path / "run") == curve(own)


def on_two_nodes(config, *words):
    """Two ranks as a launcher starts them, each with words of its own; how they ended."""
    port = str(free_port())
    places = [{"RANK": rank, "WORLD_SIZE": "2", "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": "2"} for rank in "01"]
    ranks = [
        subprocess.Popen(
            [warm_programs() / "scmf-train", "--config", config, own],
            env=environment(GLOO_SOCKET_IFNAME="lo", MASTER_ADDR="127.0.0.1", MASTER_PORT=port, **place),
            stderr=subprocess.PIPE,
            text=True,
        )
        for place, own in zip(places, words, strict=True)
    ]
    return [(process.communicate(timeout=240)[1], process.returncode) for process in ranks]


def test_nodes_with_different_configurations_are_refused(config):
    (silent, code), (said, other) = on_two_nodes(config, "trainer.optimizer.lr=1e-3", "trainer.optimizer.lr=1e-4")
    assert (code, other, silent) == (1, 1, "")
    assert said.startswith("error: trainer.optimizer.lr is 0.0001 on this rank and 0.001 on the first\n")


SLURM_STEP = {"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "7123456"}


def place_in_a_step(monkeypatch, **changes):
    """What a task of a Slurm step takes from its environment."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that what is set below is taken back
        monkeypatch.delenv(name)
    for name, value in (SLURM_STEP | changes).items():
        monkeypatch.setenv(name, value)
    read_environment()
    return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("127.0.0.[1-2]", "127.0.0.1"),
        ("127.0.[003,007-9].1,localhost", "127.0.003.1"),
        ("127.[0-1].0.[4,6]", "127.0.0.4"),
        ("localhost", "localhost"),
        ("localhost,127.0.0.[1-2]", "localhost"),
    ],
)
def test_ranks_of_a_slurm_step_meet_at_the_first_node_of_the_list_without_asking_slurm(nodes, first, monkeypatch):
    assert place_in_a_step(monkeypatch, SLURM_STEP_NODELIST=nodes)[0] == first


def test_a_node_that_nobody_can_find_is_refused_at_once(monkeypatch):
    def nobody(*_):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    with pytest.raises(MachineError, match=r"'scmf-nowhere003', and nothing here knows its address") as refused:
        place_in_a_step(monkeypatch, SLURM_STEP_NODELIST="scmf-nowhere[003-005]")
    assert "scontrol show node scmf-nowhere003" in refused.value.fix


def test_two_steps_of_one_slurm_job_meet_at_different_ports_below_those_of_outgoing_connections(monkeypatch):
    ports = {place_in_a_step(monkeypatch, SLURM_STEP_ID=step, SLURM_STEP_NODELIST="localhost")[1] for step in "012"}
    assert len(ports) == 3
    assert ports <= set(PORTS)


def test_a_signal_before_the_first_step_ends_a_run_so_that_it_is_put_back(config, tmp_path):
    (tmp_path / "early.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGUSR1)\n")
    result = run("scmf-train", "--config", config, "data.kind=early.Cells", PYTHONPATH=str(tmp_path))
    assert result.returncode == 75
    assert result.stderr == (
        "SIGUSR1 outside of the training steps: nothing to save, exit code 75; --resume auto goes on\n"
    )


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            "[gloo/transport/tcp/pair.cc:537] Read error [10.77.0.2]:60115: Connection timed out.",
            "Connection timed out",
        ),
        ("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:2147", "Connection closed by peer"),
        ("size mismatch, got input (96), mat (96x64), vec (32)", None),
    ],
)
def test_a_collective_that_fails_because_a_process_or_a_node_is_gone_is_told_from_other_errors(said, words):
    assert lost_contact(RuntimeError(said)) == words


def test_a_rank_that_fails_stops_the_others_and_says_why(config, tmp_path):
    (tmp_path / "broken.py").write_text(
        "import os\n"
        "from scmf.core.errors import StoreError\n"
        "from scmf.data.config import CellsConfig\n"
        "class OneRank(CellsConfig):\n"
        "    def open(self, **place):\n"
        "        if os.environ['RANK'] == '1':\n"
        "            raise StoreError('this rank has no disk', where='broken', fix='mend it')\n"
        "        return super().open(**place)\n"
    )
    words = ["trainer.devices=2", "data.kind=broken.OneRank"]
    result = run("scmf-train", "--config", config, *words, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    what, _, _ = three_lines(result)
    assert what == "this rank has no disk"
    assert result.stderr.count("error:") == 1


def test_a_fault_of_all_ranks_is_told_once(config, tmp_path):
    result = run("scmf-train", "--config", config, "trainer.devices=2", f"data.store={tmp_path / 'absent'}")
    _, where, _ = three_lines(result)
    assert "absent" in where
    assert result.stderr.count("error:") == 1


def test_a_damaged_checkpoint_under_two_ranks_is_told_once_and_rightly(config, own, tmp_path):
    directory = shutil.copytree(own, tmp_path / "run", symlinks=True)
    shard = next((directory / "checkpoints" / "last").resolve().glob("*.distcp"))
    shard.write_bytes(shard.read_bytes()[:-100])
    words = ["--resume", "auto", "trainer.devices=2", f"trainer.result_dir={directory}"]
    result = run("scmf-train", "--config", config, *words)
    what, _, _ = three_lines(result)
    assert what == f"{shard.name} does not have the bytes that were written"
    assert result.stderr.count("error:") == 1


def test_an_explicit_number_of_ranks_that_the_launcher_does_not_meet_is_refused(config, tmp_path):
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    what, _, _ = three_lines(run("scmf-train", "--config", config, "trainer.devices=2", **alone))
    assert "the launcher has started 1" in what


def test_a_shell_in_a_slurm_step_of_one_task_is_no_launcher(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert not under_launcher()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    assert under_launcher()


def test_ranks_do_not_outlive_a_killed_launcher(config, tmp_path):
    arguments = ["trainer.devices=2", "trainer.max_steps=1000", f"trainer.result_dir={tmp_path / 'run'}"]
    launcher = subprocess.Popen(
        command("scmf-train", "--config", config, *arguments),
        env=environment(),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while last_step(tmp_path / "run") < 1:
            assert launcher.poll() is None
            time.sleep(0.05)
    finally:
        launcher.kill()
        launcher.wait()
    deadline = time.monotonic() + 20
    while group_lives(launcher.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    lived = group_lives(launcher.pid)
    if lived:
        os.killpg(launcher.pid, signal.SIGKILL)
    assert not lived


def group_lives(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("wrong", [{"RANK": "0"}, {"RANK": "x", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}])
def test_half_an_environment_is_refused(wrong, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(MachineError, match="set together") as refused:
        read_environment()
    assert "torchrun" in refused.value.fix
