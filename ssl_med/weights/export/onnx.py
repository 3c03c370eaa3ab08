"""The encoder as ONNX, for runtimes without PyTorch."""

from __future__ import annotations

import importlib.util
import json
import warnings
from pathlib import Path

import torch

from ssl_med.files import write_file
from ssl_med.spec import SslMedError, first_line
from ssl_med.weights.core.exporter import Exporter, Source
from ssl_med.weights.core.program import Levels, example, levels_line

_NEEDS = ("onnx", "onnxscript")
TOLERANCE = 1e-5  # of the largest feature; onnxruntime sums in another order, and was within 2e-6 for every backbone


class Onnx(Exporter):
    """Any encoder, for images of the contract's size and batches of any size."""

    ending = ".onnx"

    def check(self, source: Source) -> None:
        """The packages that write ONNX must be there."""
        absent = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
        if absent:
            raise SslMedError(f"to=onnx: needs {' and '.join(absent)}; install the extra: pip install 'ssl-med[onnx]'")

    def write(self, source: Source, out: Path) -> list[str]:
        """One file with weights and card; its input is `image`, its outputs are `level0`, `level1`, ..., finest first."""
        network, image = Levels(source.backbone), example(source)
        names = [f"level{number}" for number in range(len(network(image[:1])))]
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of deprecated calls inside of torch
                program = torch.onnx.export(
                    network,
                    (image,),
                    input_names=["image"],
                    output_names=names,
                    dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                    dynamo=True,
                    verbose=False,
                )
        except Exception as error:  # the tracer has no family of errors
            raise SslMedError(f"to=onnx: {source.path} cannot be traced ({first_line(error)[:120]})") from None
        if program is None:
            raise SslMedError(f"to=onnx: {source.path} cannot be traced")
        model = program.model_proto
        if model.ByteSize() >= 2**31:
            raise SslMedError(f"to=onnx: {source.path} has more than the 2 GB of one ONNX file; take to=torch_export")
        about = model.metadata_props.add()
        about.key, about.value = "ssl_med", json.dumps(source.card.plain(), sort_keys=True)
        write_file(out, lambda file: file.write(model.SerializeToString()))
        near = f"onnxruntime gives each feature within {TOLERANCE:g} of the largest one of its level, as float32"
        return [levels_line(source, image), near, *source.contract.lines()]
