"""MIMIC-CheXpert: a Lightning module `model` with `encoder_q`, `encoder_k` and queue; images of grey levels 0 to 255."""

import torch
from convolutional_layouts import behind, beside, densenet121, densenet_forward
from foreign_case import Case


def _build(generator):
    state = beside("model.encoder_q.", densenet121(generator, classes=128))
    state |= {"model.encoder_k.classifier.weight": torch.zeros(128, 1024), "model.queue": torch.zeros(128, 4)}
    return {"state_dict": state | {"model.queue_ptr": torch.zeros(1, dtype=torch.long)}}


def _forward(made, x):
    return densenet_forward(behind("model.encoder_q.", made["state_dict"]), x * 255)


CASES = [Case("densenet121", build=_build, forward=_forward, shape=(3, 64, 64), ending=".pt")]
