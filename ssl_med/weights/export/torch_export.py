"""The encoder as a program of `torch.export`: it runs where PyTorch is, without this package."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch

from ssl_med.files import write_file
from ssl_med.spec import SslMedError, first_line
from ssl_med.weights.core.exporter import Exporter, Source
from ssl_med.weights.core.program import Levels, example, levels_line


class TorchExport(Exporter):
    """Any encoder, for images of the contract's size and batches of any size."""

    ending = ".pt2"

    def check(self, source: Source) -> None:
        """Any encoder is taken; one whose code cannot be traced is refused when it is written."""

    def write(self, source: Source, out: Path) -> list[str]:
        """A traced program, whose normalisation of the channels is part of it, with the card beside it."""
        batch = torch.export.Dim("batch", min=1)
        network, image = Levels(source.backbone), example(source)
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of deprecated calls inside of torch
                program = torch.export.export(network, (image,), dynamic_shapes=({0: batch},))
        except Exception as error:  # the tracer has no family of errors
            raise SslMedError(f"to=torch_export: {source.path} cannot be traced ({first_line(error)[:120]})") from None
        card = json.dumps(source.card.plain(), sort_keys=True)
        write_file(out, lambda file: torch.export.save(program, file, extra_files={"card.json": card}))
        return [
            levels_line(source, image),
            f"read it with torch.export.load('{out.name}').module()(images)",
            *source.contract.lines(),
        ]
