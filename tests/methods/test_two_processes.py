"""World-size invariance: two gloo processes at half the batch equal one process at the same global batch.

In CI, of the methods that share something of their own and of one that leaves all to its base; `make test-long` takes every
method. That each logs in two processes what it logs in one is what tests/experiments/test_processes.py holds, in CI.
"""

import copy
import sys
from pathlib import Path

import commands
import pytest
import torch
import torch.distributed as dist
from test_methods import CLASSES, SWEEP, batch_of, blobs, generator, make

from ssl_med.distributed import convert_sync_batchnorm

WORLD, BATCH, STEPS = 2, 4, 2
NARROW = "backbone.channels=[4,8,16]"  # what is shared does not depend on the width
ADVERSARIAL = ["method.adversarial=0.01", "method.critic_channels=[4,6]", "method.critic_lr=0.01"]
COMMON = "autoencoder"


def shares(name):
    """Whether a method's own file speaks with other processes."""
    return "ssl_med.distributed" in Path(sys.modules[CLASSES[name].__module__].__file__).read_text()


JOBS = [
    # what processes share has no dimensions: volumes only where images are refused, and for one method that knows both
    *(
        pytest.param(*p.values, (), id=p.id, marks=() if shares(name) or name == COMMON else pytest.mark.long)
        for p in SWEEP
        if (name := p.values[0]) and p.values[1] == min(CLASSES[name].dims)
    ),
    pytest.param("pcrl", 3, (), id="pcrl-3d"),
    pytest.param("pcrl/paper", 2, (), id="pcrl-paper-2d"),
    pytest.param("pcrl/code", 2, (), id="pcrl-code-2d"),
    pytest.param("deep_cluster/v2", 2, (), id="deep_cluster-v2-2d"),
    pytest.param("cube_pp", 2, tuple(ADVERSARIAL), id="cube_pp-adversarial-2d"),  # the critic and its moments too
]


def views_of(method, dims, seed):
    first, second = (blobs(BATCH, dims, seed=s, channels=method.spec.in_channels) for s in (seed, seed + 50))
    return method.views(batch_of(first, second), generator(seed))


def doubled(views):
    return {k: v.double() if v.is_floating_point() else v for k, v in views.items()}


def part(views, rank):
    size = BATCH // WORLD
    return {k: v if v.ndim == 0 else v[rank * size : (rank + 1) * size] for k, v in views.items()}


def run_steps(method, views_list, rank=None):
    """Plain SGD with the averaging that DDP does; returns losses, last gradients and the final state."""
    method.train()
    losses, gradients = [], {}
    for views in views_list:
        method.before_epoch()
        method.zero_grad()
        loss = method.terms(views)["loss"]
        loss.backward()
        gradients = {n: p.grad.clone() for n, p in method.named_parameters() if p.requires_grad}
        mean = loss.detach().clone()
        if rank is not None:
            dist.all_reduce(mean)
            mean /= WORLD
            for g in gradients.values():
                dist.all_reduce(g)
                g /= WORLD
        losses.append(float(mean))
        with torch.no_grad():
            for n, p in method.named_parameters():
                if n in gradients:
                    p -= 0.05 * gradients[n]
        method.after_step()
    return losses, gradients, method.state_dict()


def worker(rank, folder, jobs):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    for index, (name, dims, words) in enumerate(jobs):
        method = make(name, dims, NARROW, *words).double()
        convert_sync_batchnorm(method, device_type="cpu")
        views_list = torch.load(f"{folder}/views{index}.pt")
        result = run_steps(method, [part(v, rank) for v in views_list], rank)
        if rank == 0:
            torch.save(result, f"{folder}/result{index}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_process_results(tmp_path_factory, request):
    """What the jobs that are asked for come to, in two processes and in one."""
    folder = tmp_path_factory.mktemp("two")
    asked = [item.callspec.params for item in request.session.items if item.path == request.path]
    jobs = [job for job in (p.values for p in JOBS) if dict(zip(("name", "dims", "words"), job, strict=True)) in asked]
    expected = {}
    for index, (name, dims, words) in enumerate(jobs):
        method = make(name, dims, NARROW, *words).double()
        with torch.no_grad():
            views_list = [doubled(views_of(method, dims, seed)) for seed in range(STEPS)]
        torch.save(views_list, f"{folder}/views{index}.pt")
        expected[name, dims, words] = copy.deepcopy(run_steps(method, views_list))
    commands.together(worker, str(folder), jobs, count=WORLD)
    return {job: (torch.load(f"{folder}/result{i}.pt"), expected[job]) for i, job in enumerate(jobs)}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dims", "words"), JOBS)
def test_loss_gradient_and_whole_state_agree(two_process_results, name, dims, words):
    (losses, gradients, state), (losses1, gradients1, state1) = two_process_results[name, dims, words]
    assert losses == pytest.approx(losses1, rel=1e-9)
    for key, gradient in gradients1.items():
        assert torch.allclose(gradients[key], gradient, atol=1e-9, rtol=1e-6), key
    assert state.keys() == state1.keys()
    for key, value in state1.items():  # weights, teacher, queue and its pointer, running statistics
        assert torch.allclose(state[key].double(), value.double(), atol=1e-9, rtol=1e-6), key
