"""nnssl: an encoder behind the keys that its adaptation plan names, in a file and in a folder."""

import json

from foreign_case import Case
from planned_layout import encode, kwargs, planned, turned

SHAPE = (1, 16, 12, 8)  # x, y, z


def _plan(name, *, deep):
    one = {"spacing": [1, 1, 1], "spacing_style": "onemmiso", "normalization_schemes": ["ZScoreNormalization"]}
    stem = "encoder.stem" if deep else "encoder.stages.0"
    return {
        "architecture_plans": {"arch_class_name": name, "arch_kwargs": kwargs(deep=deep)},
        "pretrain_plan": {
            "transpose_forward": [0, 1, 2],
            "configurations": {"onemmiso": {**one, "use_mask_for_norm": [False], "patch_size": [160, 160, 160]}},
        },
        "pretrain_num_input_channels": 1,
        "recommended_downstream_patchsize": [160, 160, 160],
        "key_to_encoder": "encoder.stages",
        "key_to_stem": stem,
        "keys_to_in_proj": [f"{stem}.convs.0.conv", f"{stem}.convs.0.all_modules.0"],
        "key_to_lpe": None,
    }


def _file(name, *, deep):
    return lambda generator: {
        "network_weights": planned(generator, deep=deep, convs=1),
        "nnssl_adaptation_plan": _plan(name, deep=deep),
        "citations": [],
    }


def _forward(made, x):
    return turned(lambda image: encode(made["network_weights"], image), x)


CASES = [
    Case("residual", build=_file("ResidualEncoderUNet", deep=True), forward=_forward, shape=SHAPE),
    Case("plain", build=_file("PlainConvUNet", deep=False), forward=_forward, shape=SHAPE),
    Case(
        "folder",
        build=lambda generator: {"network_weights": planned(generator, deep=True, decoder=False)},
        forward=_forward,
        shape=SHAPE,
        ending="checkpoint_final.pth",
        folder={"adaptation_plan.json": json.dumps(_plan("ResidualEncoderUNet", deep=True)), "config.json": "{}"},
    ),
]
