"""What is forked: one thread, no GPU, and what a task finds ready in it."""

import os
from pathlib import Path

import pytest

from edge.runner import limits
from edge.usage import FILE
from tests.supernode import app_of, wait_until

TORCH = """
import os
import torch
READY = torch.cuda.is_available()
@app.train()
def train(message, context):
    torch.ones(64, 64, requires_grad=True).matmul(torch.ones(64, 64)).sum().backward()
    return reply(message, threads=torch.get_num_threads(), imported="torch._dynamo" in __import__("sys").modules)
"""
CUDA = """
import torch
{at_import}
@app.train()
def train(message, context):
    held = torch.ones(2**26, device="cuda")
    return reply(message, sum=float(held.sum()))
"""


def threads_of(pid):
    return len(os.listdir(f"/proc/{pid}/task"))


@pytest.mark.slow
def test_torch_is_ready_in_a_process_with_one_thread_and_no_gpu(make_site):
    site = make_site(preload=("torch", "torch._dynamo"), threads=2)
    for _ in range(3):  # the first of which uses torch's thread pool
        assert dict(site.ask(app_of(TORCH)).content["answer"]) == {"threads": 2, "imported": True}
    for zygote in (site.process.pid, site.zygote()):
        assert threads_of(zygote) == 1
        assert not limits.holds_gpu(zygote)
    assert "anew" not in site.log.read_text()


def test_whoever_has_a_gpu_open_is_noticed(monkeypatch):
    """With another device in its place, because most machines have no GPU."""
    monkeypatch.setattr(limits, "GPU_DEVICES", ("/dev/full",))
    assert not limits.holds_gpu(os.getpid())
    with Path("/dev/full").open("rb"):
        assert limits.holds_gpu(os.getpid())
    assert not limits.holds_gpu(os.getpid())


@pytest.mark.gpu
@pytest.mark.parametrize("at_import", ["READY = torch.cuda.is_available()", "torch.zeros(1, device='cuda')"])
def test_a_task_uses_the_gpu_and_leaves_it_free(make_site, tmp_path, at_import):
    policy = tmp_path / "policy.toml"
    policy.write_text("[limits]\ngpu_minutes_per_day = 60\n")
    site = make_site(preload=("torch",), policy=policy)
    for _ in range(2):
        assert site.ask(app_of(CUDA.format(at_import=at_import))).content["answer"]["sum"] == 2**26
    pids = [site.process.pid, *site.children()]
    wait_until(lambda: not any(limits.holds_gpu(pid) for pid in pids))
    assert ("imported anew in each task" in site.log.read_text()) == ("zeros" in at_import)
    assert (site.home / FILE).exists()
