"""The whole method of a finished pretraining, decoder and heads too, from its run folder."""

from __future__ import annotations

from pathlib import Path

from ssl_med.catalogue import get_class
from ssl_med.checkpoint import read_card
from ssl_med.config import Layer, build
from ssl_med.finite import check_tensors
from ssl_med.methods.core.base import Method
from ssl_med.methods.core.restoring import restoring
from ssl_med.optim import OptimConfig
from ssl_med.reading import UnreadableError
from ssl_med.reports.run_folder import BACKBONE, BEST, LAST, read_run
from ssl_med.spec import DataSpec, SslMedError, first_line
from ssl_med.weights.core.torch_files import read_torch

_SHOWN = "models_genesis, context_restoration, mae or pcrl"


def restoring_method(init: str, spec: DataSpec) -> Method:
    """The method of `init`, a run folder, with the weights that the run chose, for images of `spec`; in evaluation mode.

    Raises:
        SslMedError: no folder of a finished pretraining, a method that restores nothing, images of another size, or a
            checkpoint that is gone.
    """
    folder = Path(init)
    run = read_run(folder) if folder.is_dir() else None
    if run is None or run.kind != "pretrain" or run.problem:
        what = f"init={init}: is no folder of a finished `ssl-med pretrain`"
        raise SslMedError(f"{what}, whose whole network restores images; pretrain by {_SHOWN}, and give its folder")
    card = read_card(folder / BACKBONE)
    name = card.method.partition("/")[0]
    kind = get_class("ssl_med.methods", name, kind="method", base=Method)
    settings = {key: value for key, value in card.method_config.items() if key != "name"}
    method: Method = kind(
        build(kind.Config, [Layer(str(folder / BACKBONE), settings)], prefix="method"),
        spec=card.data_spec(),
        backbone=card.backbone_config(),
        optim=OptimConfig(),
        batch_size=max(2, kind.min_batch),
        seed=card.seed,
    )
    if restoring(method) is None:
        raise SslMedError(
            f"init={init}: {card.method} restores no images; give the folder of a pretraining by {_SHOWN}"
        )
    was = list(card.data_spec().patch_size)
    if was != list(spec.patch_size):
        raise SslMedError(
            f"init={init}: restores images of {was}, these are of {list(spec.patch_size)}; set "
            f"data.patch_size={str(was).replace(' ', '')}"
        )
    path = folder / (BEST if str(run.summary.get("weights", "")).startswith("best") else LAST)
    try:
        state = read_torch(path)["state_dict"]
        method.load_state_dict(state)
    except UnreadableError as error:
        raise SslMedError(f"{path}: {error}; the whole network of this run is gone, pretrain again") from None
    except Exception as error:  # torch has no family of errors for tensors that do not fit
        raise SslMedError(f"{path}: does not hold the network of {folder} ({first_line(error)})") from None
    check_tensors(method.state_dict(), str(path))
    return method.eval().requires_grad_(False)
