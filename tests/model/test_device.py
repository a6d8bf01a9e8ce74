"""The file that names CUDA: what it calls is there and takes what it is given, as far as a CPU build of torch knows."""

from __future__ import annotations

from unittest.mock import create_autospec

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from scmf.model import device
from scmf.model.pack import Pack
from support.tiny import drawn_step

GPU = torch.device("cuda", 3)


@pytest.fixture
def cuda(monkeypatch):
    """torch.cuda with calls that are checked against the signatures of its own and written down, and do nothing."""
    calls = []

    def record(owner, name, answer=None):
        fake = create_autospec(getattr(owner, name))
        fake.side_effect = lambda *args, **kwargs: calls.append((name, *args, *kwargs.values())) or answer
        monkeypatch.setattr(owner, name, fake)

    monkeypatch.setattr(device, "has_gpu", lambda: True)
    answers = {
        "device_count": 4,
        "max_memory_allocated": 7,
        "get_device_capability": (9, 0),
        "get_device_name": "NVIDIA H200",
    }
    for name in ("set_device", "synchronize", "empty_cache", *answers):
        record(torch.cuda, name, answers.get(name))
    for name in ("range_push", "range_pop"):
        record(torch.cuda.nvtx, name)
    for name in ("start", "stop"):
        record(torch.cuda.profiler, name)
    for name in ("_record_memory_history", "_dump_snapshot"):
        record(torch.cuda.memory, name)
    return calls


def test_a_gpu_is_asked_by_calls_that_torch_has(cuda, monkeypatch, tmp_path):
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert device.local_device() == GPU
    device.use_device(GPU)
    assert (device.peak_memory(GPU), device.compute_capability(GPU), device.device_name(GPU)) == (
        7,
        (9, 0),
        "NVIDIA H200",
    )
    device.wait_for(GPU)
    device.release_memory(GPU)
    with device.named_range("optimizer"):
        device.capture_for_profiler(on=True)
        device.capture_for_profiler(on=False)
    device.remember_allocations()
    device.write_allocations(tmp_path / "history.pickle")
    names = [call[0] for call in cuda]
    assert names[-6:] == ["range_push", "start", "stop", "range_pop", "_record_memory_history", "_dump_snapshot"]
    assert ("set_device", GPU) in cuda
    assert ("synchronize", GPU) in cuda
    assert "empty_cache" in names


def test_a_microbatch_goes_to_a_gpu_from_pinned_memory_in_the_dtypes_of_transformer_engine(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    (microbatch, *_) = drawn_step(0, replica=0, replicas=1).microbatches
    with FakeTensorMode():  # tensors that say that they are on a GPU
        pack = Pack.of(microbatch, GPU)
    on_gpu = (pack.input_ids, pack.positions, pack.target_positions, pack.targets, pack.packed_seq_params.cu_seqlens_q)
    assert {tensor.device for tensor in on_gpu} == {GPU}
    assert [tensor.dtype for tensor in on_gpu] == [torch.int64] * 4 + [torch.int32]
    assert len(pinned) == len(on_gpu)
    assert type(pack.packed_seq_params.max_seqlen_q) is int  # a tensor would be read back
    assert pack.packed_seq_params.cu_seqlens_q_padded is None  # Transformer Engine would compare it on the host


def test_a_moment_on_a_gpus_stream_is_an_event_that_keeps_time(monkeypatch):
    event = create_autospec(torch.cuda.Event)
    event.return_value.elapsed_time.return_value = 1500.0
    monkeypatch.setattr(torch.cuda, "Event", event)
    mark = device.marks_of(GPU)
    assert mark().seconds_until(mark()) == 1.5
    event.assert_called_with(enable_timing=True)
    assert device.marks_of(torch.device("cpu")) is None


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN Error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("NCCL error: unhandled cuda error 'out of memory'"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_memory_that_runs_out_is_known_by_the_words_of_every_library(error, is_one):
    assert device.is_out_of_memory(error) is is_one
