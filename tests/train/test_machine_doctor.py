"""scmf-doctor: a machine that is well is told so; every fault has its number, its place and what mends it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from scmf.core.errors import ConfigError, MachineError
from scmf.train import cli_doctor
from scmf.train.doctor import disk, examine, host, programs
from scmf.train.doctor.check import CHECKS, Check, fault, ok, warning
from scmf.train.doctor.inquiry import Answer, ask, try_import
from scmf.train.doctor.products import check_products
from support.command import succeed

PAGE = Path(__file__).parents[2] / "docs" / "machine.md"
H200 = "NVIDIA H200"
DRIVERS = ((H200, 150_000_000_000),)
ON_CPU = {
    "torch": "2.13.0+cpu",
    "cuda": None,
    "error": "Torch not compiled with CUDA enabled",
    "nccl": None,
    "devices": [],
}
ON_GPU = {
    "torch": "2.13.0",
    "cuda": "12.8",
    "error": None,
    "nccl": "2.27.3",
    "devices": [{"name": H200, "memory": 150_000_000_000, "capability": "9.0"}],
}


class Usage(NamedTuple):
    """Of a disk, as shutil tells it."""

    total: int
    used: int
    free: int


def _torch(facts, drivers):
    return {check.name: check for check in programs.check_torch(Answer(facts), drivers)}


def test_this_machine_is_well_and_its_ranks_meet(demo_store):
    found = json.loads(succeed("scmf-doctor", "--store", demo_store.path, "--json"))
    assert [check["name"] for check in found if check["state"] == "fault"] == []
    assert {check["name"] for check in found} == set(CHECKS)
    said = {check["name"]: check["found"] for check in found}
    assert re.search(r"2 ranks by gloo, [\d.]+ GB/s", said["ring"]) or "nccl" in said["ring"]
    assert said["megatron"] == f"megatron-core {importlib.metadata.version('megatron-core')}"
    assert re.search(r"\d MB read in .* MB/s", said["store"])


def test_every_check_is_on_the_page_with_its_number():
    rows = dict(re.findall(r"^\| `(SCMF-M\d{3})` \| `([a-z-]+)` \|", PAGE.read_text(), re.MULTILINE))
    assert rows == {number: name for name, (number, _) in CHECKS.items()}


@pytest.mark.parametrize(
    ("check", "state", "said", "fix"),
    [
        pytest.param(lambda: host.check_python((3, 9, 1)), "fault", "3.9.1", "python3.12 -m venv", id="python"),
        pytest.param(lambda: host.check_python((3, 12, 4)), "ok", "3.12.4", "", id="python-ok"),
        pytest.param(lambda: host.check_cores(64, 2.5), "warning", "64 to be seen", "OMP_NUM_THREADS=2", id="quota"),
        pytest.param(lambda: host.check_cores(8, None), "ok", "8", "", id="no-quota"),
        pytest.param(lambda: host.check_memory(2 * 10**9), "warning", "2.0 GB", "scmf-plan", id="memory"),
        pytest.param(lambda: host.check_open_files(256, 4096), "warning", "256", "ulimit -n 4096", id="files"),
        pytest.param(lambda: host.check_open_files(65_536, 65_536), "ok", "65,536", "", id="files-ok"),
        pytest.param(
            lambda: host.check_text("utf-8", "ANSI_X3.4-1968"), "warning", "ANSI", "LC_ALL=C.UTF-8", id="text"
        ),
        pytest.param(
            lambda: check_products({"bf16": 700e12, "fp32": 50e12}, device=H200),
            "ok",
            "700 TFLOP/s (71%",
            "",
            id="fast",
        ),
        pytest.param(
            lambda: check_products({"bf16": 300e12, "fp32": 20e12}, device=H200),
            "warning",
            "(30%",
            "nvidia-smi",
            id="slow",
        ),
        pytest.param(lambda: check_products({"fp32": 50e9}, device="cpu"), "ok", "no peak is known", "", id="cpu"),
    ],
)
def test_what_is_found_decides_the_verdict(check, state, said, fix):
    found = check()
    assert (found.state, said in found.found, fix in found.fix) == (state, True, True), found


@pytest.mark.parametrize(
    ("facts", "drivers", "name", "said", "fix"),
    [
        pytest.param(
            ON_CPU, DRIVERS, "gpus", "the build for CPUs and cannot use them", "pip install torch", id="build"
        ),
        pytest.param(
            {**ON_GPU, "devices": [], "error": "The NVIDIA driver on your system is too old"},
            DRIVERS,
            "gpus",
            "driver on your system is too old",
            "update the driver",
            id="driver",
        ),
        pytest.param({**ON_GPU, "nccl": None}, DRIVERS, "nccl", "without NCCL", "CUDA builds", id="nccl"),
    ],
)
def test_gpus_that_torch_cannot_use_are_a_fault(facts, drivers, name, said, fix):
    found = _torch(facts, drivers)[name]
    assert found.state == "fault"
    assert said in found.found
    assert fix in found.fix


def test_a_machine_with_a_gpu_and_one_without_are_both_well():
    assert {check.state for check in _torch(ON_GPU, DRIVERS).values()} == {"ok"}
    assert {check.state for check in _torch(ON_CPU, ()).values()} == {"ok"}
    assert "capability 9.0" in _torch(ON_GPU, DRIVERS)["gpus"].found


def test_a_torch_that_cannot_be_imported_is_told_with_its_last_words():
    (found,) = programs.check_torch(Answer(failure="ImportError: libcudart.so.12: cannot open"), ())
    assert found.state == "fault"
    assert "libcudart.so.12" in found.found


def test_a_half_installed_transformer_engine_is_a_fault_on_gpus_only(tmp_path, monkeypatch):
    (tmp_path / "transformer_engine").mkdir()
    (tmp_path / "transformer_engine" / "__init__.py").write_text("raise RuntimeError('no libtransformer_engine.so')\n")
    # A test before this one may have imported Megatron, for which it is hidden where there is no GPU.
    monkeypatch.delitem(sys.modules, "transformer_engine", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    on_gpu = programs.check_transformer_engine(gpus=1)
    assert on_gpu.state == "fault"
    assert "no libtransformer_engine.so" in on_gpu.found
    assert "--no-build-isolation" in on_gpu.fix
    assert programs.check_transformer_engine(gpus=0).state == "ok"


def test_gpus_without_transformer_engine_are_a_fault():
    found = programs.check_transformer_engine(gpus=8)
    assert found.state == "fault"
    assert "scmf-model[gpu]" in found.fix


def test_a_broken_package_that_scmf_can_do_without_is_a_warning(tmp_path, monkeypatch):
    (tmp_path / "apex.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = programs.check_optional("apex", distribution="apex", module="apex")
    assert (found.state, "SIGSEGV" in found.found) == ("warning", True)


def test_packages_that_are_missing_or_too_old_are_named_as_pip_takes_them(monkeypatch):
    wanted = [
        "not-there-at-all>=2",
        "numpy<1",
        "pydantic>=2",
        "wandb>=1; extra == 'wandb'",
        "pywin32; sys_platform == 'win32'",
    ]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: wanted)
    unmet = programs.missing_requirements()
    assert [word.partition(" ")[0] for word in unmet] == ["not-there-at-all>=2", "numpy<1"]
    found = programs.check_packages(unmet)
    assert found.state == "fault"
    assert found.fix.endswith("pip install 'not-there-at-all>=2' 'numpy<1'")


def test_a_small_shared_memory_is_a_warning_where_several_gpus_use_it(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(64 << 20, 0, 64 << 20))
    assert host.check_shared_memory(tmp_path, gpus=1).state == "ok"
    found = host.check_shared_memory(tmp_path, gpus=4)
    assert (found.state, "--shm-size" in found.fix) == ("warning", True)
    assert host.check_disk((tmp_path,)).state == "warning"


def test_folders_that_cannot_be_written_are_warnings(tmp_path, monkeypatch):
    monkeypatch.setattr(host.os, "access", lambda *_: False)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert "NUMBA_CACHE_DIR=" in host.check_compiled_code().fix
    assert "TMPDIR" in host.check_disk((tmp_path,)).fix


def test_processes_that_hang_die_or_babble_are_answers_too():
    assert ask("-c", "print('[1, 2]')").value == [1, 2]
    assert ask("-c", "import time; time.sleep(60)", seconds=0.5).failure == "no answer after 0 s"
    assert ask("-c", "import os; os.abort()").failure == "ended by SIGABRT"
    assert ask("-c", "print('well')").failure == "it printed 'well\\n'"
    assert ask("-c", "raise SystemExit(3)").failure == "exit code 3 without a word"
    assert try_import("json", "no_such_module").startswith("ModuleNotFoundError")


PARENT = """
import pathlib, signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
signal.signal(signal.SIGTERM, lambda *_: child.kill())
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
child.wait()
"""


def test_a_question_that_is_given_up_leaves_no_process_of_its_own_behind(tmp_path):
    """As torchrun does, a process ends those that it has started when it is asked to, and cannot when it is killed."""
    note, seconds = tmp_path / "pid", 1
    while not (note.exists() and note.read_text()):  # a busy machine takes longer to start Python twice
        assert ask("-c", PARENT, str(note), seconds=seconds).failure == f"no answer after {seconds} s"
        seconds *= 2
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


def test_a_store_that_is_missing_or_slow_is_told(tmp_path, demo_store, monkeypatch):
    missing = disk.check_store(tmp_path / "stroe")
    assert (missing.state, "no such store" in missing.found) == ("fault", True)
    monkeypatch.setattr(disk, "read_files", lambda _: (10_000_000, 2.0, True))
    slow = disk.check_store(demo_store.path)
    assert (slow.state, "5 MB/s" in slow.found, "--cold" in slow.fix) == ("warning", True, True)

    def fail(_):
        raise OSError(5, "Input/output error", "part-00000")

    monkeypatch.setattr(disk, "read_files", fail)
    assert "scmf-store verify" in disk.check_store(demo_store.path).fix


def test_ranks_that_do_not_meet_are_a_fault(monkeypatch):
    monkeypatch.setattr(examine, "ask", lambda *_, **__: Answer(failure="RuntimeError: rank 1 got 7 from rank 0"))
    found = examine.check_ring(2)
    assert (found.state, "got 7" in found.found) == ("fault", True)


def test_a_driver_that_does_not_answer_is_a_fault(monkeypatch):
    def silent():
        raise MachineError("nvidia-smi does not say which GPUs there are: timeout", where="this machine", fix="mend it")

    monkeypatch.setattr(examine, "visible_gpus", silent)
    monkeypatch.setattr(examine, "ask", lambda *_, **__: Answer(ON_CPU | {"products": {"fp32": 1e9}}))
    monkeypatch.setattr(examine, "check_megatron", lambda: ok("megatron", "there"))
    found = {check.name: check for check in examine.examine(ring=False)}
    assert found["gpus"].state == "fault"
    assert "ring" not in found


def test_the_exit_code_is_1_at_a_fault_alone_and_the_lines_say_what_mends_it(monkeypatch, capsys):
    some = [
        ok("python", "3.11"),
        warning("memory", "2 GB", where="here", fix="more"),
        fault("nccl", "no", where="torch", fix="pip"),
    ]
    monkeypatch.setattr(examine, "examine", lambda **_: iter(some))
    assert cli_doctor.doctor_command([]) == 1
    said = capsys.readouterr().out
    assert "SCMF-M005" in said
    assert "  fix:   pip" in said
    assert said.endswith("3 checks: 1 fault, 1 warning\n")
    monkeypatch.setattr(examine, "examine", lambda **_: iter(some[:2]))
    assert cli_doctor.doctor_command(["--json"]) == 0
    assert [check["number"] for check in json.loads(capsys.readouterr().out)] == ["SCMF-M001", "SCMF-M011"]


def test_what_is_not_ok_has_a_place_and_a_way_out():
    with pytest.raises(ValueError, match="a place and a way out"):
        Check("python", "fault", "old")
    with pytest.raises(ValueError, match="a known name"):
        ok("pithon", "3.11")


def test_a_misspelt_flag_has_its_neighbour():
    with pytest.raises(ConfigError, match="did you mean --no-ring"):
        cli_doctor.doctor_command(["--no-rings"])
