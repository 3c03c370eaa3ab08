"""Models Genesis: behind `module.` beside an optimiser, bare, and with the statistics of the batch."""

from foreign_case import Case
from genesis_layouts import encode, inner, unet


def _saved(generator):
    state = {f"module.{key}": value for key, value in unet(generator).items()}
    return {"epoch": 9, "state_dict": state, "optimizer_state_dict": {"state": {}, "param_groups": []}}


CASES = [
    Case("saved", build=_saved, forward=lambda made, x: encode(inner(made), x), shape=(1, 16, 16, 8)),
    Case("bare", build=unet, forward=encode, shape=(1, 16, 16, 8), ending=".safetensors"),
    Case(
        "batch_statistics",
        build=_saved,
        forward=lambda made, x: encode(inner(made), x, batch=True),
        shape=(1, 16, 16, 8),
        wishes={"backbone": {"batch_statistics": True}},
    ),
]
