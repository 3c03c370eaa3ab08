"""Every method goes on from its own state, for another number of samples, and begins with another network's weights."""

import pytest
import torch
from test_methods import CLASSES, make

from ssl_med.methods.core.start import Start

BOUND = {  # to one training: what is anew
    "byol": "schedule",
    "deep_cluster": "memories.0, clusters, head",
    "dino": "schedule",
    "pcrl_v2": "schedule",
    "pirl": "memory",
    "semantic_genesis": ", ".join(f"discovery.{name}" for name in ("scans", "owners", "found", "descriptors", "age")),
    "swav": "schedule",
}


def again(method, start):
    """A method of the same settings that begins with `start`."""
    torch.manual_seed(1)
    return type(method)(
        method.config, spec=method.spec, backbone=method.backbone_config, optim=method.optim, batch_size=8, start=start
    )


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_a_method_goes_on_from_its_own_state(name):
    method = make(name, CLASSES[name].dims[0])
    method.prepare(60)
    state = {key: value.clone() for key, value in method.state_dict().items()}
    after = again(method, Start(method.backbone, method.decoder, state))
    anew = BOUND.get(name, "")
    network = "encoder and decoder" if method.decoder is not None else "encoder"
    told = f"; all else of the method{f', but anew: {anew}' if anew else ''}"
    assert after.begun == network + told
    own = after.state_dict()
    bound = tuple(f"{part}." if not part.startswith("discovery") else part for part in anew.split(", ")) if anew else ()
    kept = [key for key in state if not key.startswith(bound)] if bound else list(state)
    assert all(torch.equal(own[key], state[key]) for key in kept)
    after.prepare(80)


@pytest.mark.parametrize("name", ["byol", "moco", "pcrl", "semantic_genesis"])
def test_teachers_begin_as_copies_of_the_weights(name):
    method = make(name, 2)
    given = make("simclr", 2).backbone
    with torch.no_grad():
        for value in given.parameters():
            value.add_(1)
    after = again(method, Start(given))
    assert all(torch.equal(value, given.state_dict()[key]) for key, value in after.backbone.state_dict().items())
    teacher = getattr(after, "teacher", None)
    if teacher is not None:
        copied = teacher.module.backbone.state_dict()
        assert all(torch.equal(value, given.state_dict()[key]) for key, value in copied.items())
    assert ("so it starts at random" in after.begun) == (method.decoder is not None)
