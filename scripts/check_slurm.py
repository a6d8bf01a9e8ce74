"""The job scripts of the documentation under a real Slurm. In: a cluster, or a machine on which to make one. Out: a
table; exit code 1 where a run did not do what the pages say.

    python scripts/check_slurm.py --folder /shared/check          # two nodes of the cluster that sbatch knows
    python scripts/check_slurm.py --folder check --own-cluster    # munged, slurmctld and two slurmd on the loopback

Checked: two tasks on two nodes against one process; SIGUSR1, requeue and resume; scancel; a task that is killed; a task
that fails before it has met the other. CPU ranks; about five minutes, most of them Slurm's own delay of a requeue.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
COUNTS = ROOT / "data" / "mix3cl_celseq2_dropseq_counts.h5ad"
TIMEOUT_SECONDS = 600.0
SETTINGS = (
    *("model.hidden_dropout=0", "model.attention_dropout=0", "trainer.schedule={kind: constant}"),
    *("trainer.checkpoint.every=20", "trainer.validate.every=null", "data.split.validation=0", "trainer.max_steps=60"),
)
SLURM_CONF = """\
ClusterName=scmf
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=16817
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=10
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
NodeName=127.0.0.[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[17001-17002] CPUs={cores} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class CheckError(Exception):
    """A run did not do what the pages say."""


def main() -> int:
    """Run every check; 0 where all of them went well."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="for runs and logs; on a file system of all nodes")
    parser.add_argument(
        "--own-cluster", action="store_true", help="start a cluster of two nodes on this machine (as root)"
    )
    options = parser.parse_args()
    folder = options.folder.resolve()
    if folder.exists():
        sys.exit(f"{folder} is there already: name a new folder")
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        if options.own_cluster:
            stack.enter_context(own_cluster(folder / "cluster"))
        os.chdir(folder)
        prepare()
        checks = [equals_one_process, is_put_back_and_cancelled, ends_when_a_task_is_killed, ends_when_a_task_is_absent]
        return max([told(check) for check in checks])


def told(check: Callable[[], str]) -> int:
    """One line of the table; 1 where the check has failed."""
    begun = time.monotonic()
    try:
        found, code = check(), 0
    except CheckError as failure:
        found, code = f"FAILED: {failure}", 1
    print(f"| {check.__name__.replace('_', ' ')} | {found} | {time.monotonic() - begun:.0f} s |", flush=True)
    return code


@contextmanager
def own_cluster(folder: Path) -> Iterator[None]:
    """Two nodes on the loopback for the time of the block; they trust whoever has the key in this folder."""
    folder.mkdir()
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(1024))
    facts = {"folder": folder, "user": "root", "host": platform.node().split(".")[0], "cores": os.cpu_count()}
    (folder / "slurm.conf").write_text(SLURM_CONF.format(**facts))
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    words = [f"--{name}={folder}/munge.{end}" for name, end in (("key-file", "key"), ("socket", "sock"))]
    words += [f"--{name}={folder}/munged.{end}" for name, end in (("pid-file", "pid"), ("log-file", "log"))]
    daemons = [["munged", "--force", "--foreground", f"--seed-file={folder}/munged.seed", *words], ["slurmctld", "-D"]]
    daemons += [["slurmd", "-D", "-N", f"127.0.0.{number}"] for number in (1, 2)]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for daemon in daemons:
            with (folder / f"{len(started)}-{daemon[0]}.out").open("wb") as out:
                started.append(subprocess.Popen(daemon, stdout=out, stderr=out))
            if daemon[0] == "munged":
                wait_for((folder / "munge.sock").exists, "munged to listen")
        wait_for(lambda: asked("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").count("127.0.0.") == 2, "two idle nodes")
        yield
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(timeout=60)


def prepare() -> None:
    """A store, a configuration, and the run of one process."""
    asked(scmf("scmf-store"), "convert", str(COUNTS), "--dest", "cells", check=True)
    recipe = ["--recipe", "test", "--data-path", "cells", "--dest", "cfg.yaml", *SETTINGS]
    asked(scmf("scmf-recipe"), *recipe, check=True)
    asked(scmf("scmf-train"), "--config", "cfg.yaml", "trainer.result_dir=alone", check=True)


def equals_one_process() -> str:
    """The script of launching.md: the same losses as one process."""
    job = submit("launching", result_dir="together")
    expect(state(job, ends=True), "COMPLETED", job)
    return f"largest loss difference {difference('together'):.1e} over {len(losses('together'))} steps"


def is_put_back_and_cancelled() -> str:
    """The script of faults.md: asked to end it saves, is put back and goes on; cancelled it saves and stays away."""
    job = submit("faults", result_dir="asked", words=["trainer.max_steps=1000000"])
    wait_for(lambda: len(losses("asked")) > 5, "the first steps")
    asked("scancel", "--signal=USR1", job, check=True)
    wait_for(lambda: "resumed at step" in said(job), "the resume", job)
    before = len(losses("asked"))
    wait_for(lambda: len(losses("asked")) > before + 5, "steps after the resume", job)
    asked("scancel", job, check=True)
    expect(state(job, ends=True), "CANCELLED", job)
    saved = re.findall(r"asked to end: saved at step ([\d,]+), exit code 75", said(job))
    if len(saved) != 2 or int(saved[1].replace(",", "")) != len(losses("asked")):
        raise CheckError(f"saved at {saved}, and metrics.jsonl has {len(losses('asked'))} steps")
    worst = difference("asked")
    return f"saved at step {saved[0]}, resumed, cancelled and saved at step {saved[1]}; difference {worst:.1e}"


def ends_when_a_task_is_killed() -> str:
    """A task that the kernel kills in the middle of the run ends the job."""
    trap = "[ $SLURM_PROCID = 0 ] || (until [ -s killed/metrics.jsonl ]; do sleep 0.2; done; kill -9 $$) & "
    job = submit("faults", result_dir="killed", words=["trainer.max_steps=1000000"], before=trap)
    expect(state(job, ends=True), "FAILED", job)
    if "another rank is gone" not in said(job):
        raise CheckError(f"the other rank has not said that it stops: {said(job)[-400:]}")
    return "the other rank stops; the job has failed"


def ends_when_a_task_is_absent() -> str:
    """A task that fails before the ranks have met ends the job, after `srun --wait`."""
    job = submit("faults", result_dir="absent", before="[ $SLURM_PROCID = 0 ] || exit 3; ")
    expect(state(job, ends=True), "FAILED", job)
    return "srun --wait ends the step; the job has failed"


def submit(page: str, *, result_dir: str, words: list[str] | None = None, before: str = "") -> str:
    """Submit the script of a page of docs/, made small; the number of the job.

    Args:
        page: name of the page.
        result_dir: of the run.
        words: more overrides.
        before: shell commands before scmf-train in every task.
    """
    (script,) = re.findall(r"cat > job.sh <<'JOB'\n(.*?)\nJOB\n", (ROOT / "docs" / f"{page}.md").read_text(), re.DOTALL)
    for pattern, small in (
        (r"#SBATCH --gpus-per-node=.*\n", ""),
        ("--ntasks-per-node=8", "--ntasks-per-node=1"),
        ("--cpus-per-task=8", "--cpus-per-task=1"),
        ("--time=24:00:00", "--time=20"),
        (r"--wait=\d+", "--wait=10"),
    ):
        script, found = re.subn(pattern, small, script)
        if not found and "gpus" not in pattern and "wait" not in pattern:
            raise CheckError(f"the script of {page}.md has no {pattern}")
    train = f"{scmf('scmf-train')} \\1 trainer.result_dir={result_dir} {' '.join(words or [])}".rstrip()
    task = f"bash -c '{before}exec {train}'" if before else train
    script = re.sub(r"scmf-train (--config .*)", lambda match: match.expand(task), script)
    path = Path(f"{result_dir}.sh")
    path.write_text(script + "\n")
    return asked(
        "sbatch", "--parsable", f"--output={result_dir}.out", f"--job-name={result_dir}", str(path), check=True
    )


def state(job: str, *, ends: bool = False) -> str:
    """State of a job, such as RUNNING; where asked for, once it has ended."""

    def now() -> str:
        """What Slurm says at this moment."""
        shown = re.search(r"JobState=(\w+)", asked("scontrol", "show", "job", job))
        return shown.group(1) if shown else "UNKNOWN"

    if ends:
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        wait_for(lambda: now() in over and not asked("squeue", "-h", "-j", job), "the end of the job", job)
    return now()


def expect(found: str, wanted: str, job: str) -> None:
    """Compare the state of a job."""
    if found != wanted:
        raise CheckError(f"the job is {found}, not {wanted}: {said(job)[-400:]}")


def said(job: str) -> str:
    """What a job has written."""
    (shown,) = re.findall(r"StdOut=(.*)", asked("scontrol", "show", "job", job)) or [""]
    path = Path(shown)
    return path.read_text() if shown and path.exists() else ""


def losses(run: str) -> list[float]:
    """Training losses of a run, one a step."""
    path = Path(run) / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    found = {(line := json.loads(text))["step"]: line["train/loss"] for text in lines if text.endswith("\n")}
    if sorted(found) != list(range(1, len(found) + 1)):
        raise CheckError(f"the steps of {path} have gaps")
    return list(found.values())


def difference(run: str) -> float:
    """Largest difference of a loss from the run of one process."""
    return max(abs(a - b) for a, b in zip(losses(run), losses("alone"), strict=False))


def wait_for(holds: Callable[[], bool], what: str, job: str | None = None) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise CheckError(f"waited {TIMEOUT_SECONDS:.0f} s for {what}: {said(job)[-400:] if job else ''}")
        time.sleep(0.5)


def scmf(name: str) -> str:
    """The command beside this Python."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or name


def asked(*words: str, check: bool = False) -> str:
    """What a command prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    if check and ran.returncode:
        raise CheckError(f"{' '.join(words)} exited with {ran.returncode}: {ran.stderr}")
    return ran.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
