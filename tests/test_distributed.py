"""Two gloo processes against one process."""

import commands
import pytest
import torch
import torch.distributed as dist
from torch import nn

from ssl_med import distributed
from ssl_med.losses.segmentation import dice_ce

WORLD = 2


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(2, 4, 3), nn.BatchNorm3d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5)).double()


def data():
    return torch.randn(8, 2, 4, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def loss_of(z, everyone):
    """Every sample meets every sample of all processes."""
    return (z @ everyone.T).tanh().square().mean()


def dice_gradient(first, count):
    """Loss with Dice over the global batch, and the gradient that DDP averages, of a scale of all logits."""
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    logits, target = data()[first : first + count], (data().roll(1, 0)[first : first + count] > 0).double()
    loss = dice_ce(scale * logits, target, exclusive=False, over_batch=True)
    loss.backward()
    return distributed.all_reduce_mean(torch.stack([loss.detach(), scale.grad]))


def worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    net = network()
    net(data())  # gives the lazy layer its shape; reset what it did to the statistics
    net[1].reset_running_stats()
    distributed.convert_sync_batchnorm(net, device_type="cpu")
    part = data()[rank * 4 : rank * 4 + 4]
    z = net(part)
    everyone = distributed.gather_with_grad(z)
    loss = loss_of(z, everyone)
    loss.backward()
    for p in net.parameters():
        dist.all_reduce(p.grad)
        p.grad /= WORLD
    # both inputs of a sum get one gradient tensor: neither backward may write into it
    pair = [torch.ones(2, requires_grad=True) for _ in range(2)]
    sum(distributed.gather_with_grad(x) for x in pair).mul(rank + 1.0).sum().backward()
    objects = distributed.gather_objects([f"case{rank}", rank])
    gathered = distributed.gather(torch.full((1,), float(rank)))
    result = {
        "grads": [p.grad for p in net.parameters()],
        "state": net.state_dict(),
        "objects": objects,
        "gathered": gathered,
        "output": everyone.detach(),
        "loss": distributed.all_reduce_mean(loss),
        "sum": distributed.all_reduce_sum(torch.ones(2, 3).T * (rank + 1)),
        "pair": [x.grad for x in pair],
        "dice": dice_gradient(4 * rank, 4),
    }
    torch.save(result, f"{folder}/result{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    net = network()
    net(data())
    net[1].reset_running_stats()
    z = net(data())
    loss = loss_of(z, z)
    loss.backward()
    commands.together(worker, str(tmp_path), count=WORLD)
    results = [torch.load(tmp_path / f"result{rank}.pt", weights_only=True) for rank in range(WORLD)]
    for result in results:  # every process knows the same
        agrees_with_one_process(result, net, z, loss)


def agrees_with_one_process(result, net, z, loss):
    assert torch.allclose(result["output"], z, atol=1e-10)
    assert float(result["loss"]) == pytest.approx(loss.item(), abs=1e-12)
    for mine, parameter in zip(result["grads"], net.parameters(), strict=True):
        assert torch.allclose(mine, parameter.grad, atol=1e-12)
    state = net.state_dict()
    assert result["state"].keys() == state.keys()
    for key, value in state.items():
        assert torch.allclose(result["state"][key].double(), value.double(), atol=1e-10), key
    assert result["objects"] == ["case0", 0, "case1", 1]
    assert result["gathered"].tolist() == [0.0, 1.0]
    assert torch.equal(result["sum"], torch.full((3, 2), 3.0))
    assert torch.allclose(result["dice"], dice_gradient(0, 8), atol=1e-12)
    assert [grad.tolist() for grad in result["pair"]] == [[3.0, 3.0], [3.0, 3.0]]  # 1 from rank 0, 2 from rank 1


def test_one_process_needs_no_group():
    x = torch.randn(3, requires_grad=True)
    assert distributed.world_size() == 1
    assert distributed.rank() == 0
    assert distributed.gather_with_grad(x) is x
    assert distributed.gather_objects([1]) == [1]
    assert distributed.all_reduce_mean(torch.tensor(3.0)) == 3.0


def test_shared_batchnorm_alone_is_batchnorm():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.BatchNorm2d(3))
    shared = nn.Sequential(nn.BatchNorm2d(3))
    distributed.convert_sync_batchnorm(shared, device_type="cpu")
    x = torch.randn(4, 3, 5, 5)
    assert torch.equal(plain(x), shared(x))
    assert plain.state_dict().keys() == shared.state_dict().keys()
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        shared(torch.randn(3))
