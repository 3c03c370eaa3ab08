"""Encoders in folders of Hugging Face: `hub_model().from_pretrained("owner/name")`, by the mixin of the hub's own library.

`ssl-med weights export RUN to=huggingface out=FOLDER` writes such a folder. Without the hub's library
`ssl_med.load_weights("FOLDER")` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from torch import Tensor, nn

from ssl_med.networks.backbone import build_backbone, stored_config
from ssl_med.spec import SslMedError


class Pretrained(nn.Module):
    """An encoder, and its decoder where there is one, as config.json describes them.

    Args:
        backbone: settings of the encoder.
        spatial_dims: 2 or 3.
        in_channels: of the images.
        skips: whether the decoder uses the encoder's skip connections; None: there is no decoder.
        about: everything else that config.json says, such as `contract`: what images must be.
    """

    def __init__(
        self,
        backbone: Mapping[str, Any],
        spatial_dims: int,
        in_channels: int,
        skips: bool | None = None,
        **about: Any,
    ) -> None:
        super().__init__()
        self.about = about
        self.encoder = build_backbone(stored_config(backbone), spatial_dims=spatial_dims, in_channels=in_channels)
        self.decoder = None if skips is None else self.encoder.build_decoder(skips=skips)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, *S), scaled as the contract says -> pyramid of the encoder, finest level first."""
        found: list[Tensor] = self.encoder(x)
        return found


@cache
def hub_model() -> Any:
    """`Pretrained` with `from_pretrained`, `save_pretrained` and `push_to_hub`.

    Raises:
        SslMedError: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import PyTorchModelHubMixin
    except ImportError:
        raise SslMedError("huggingface_hub is not installed; install the extra: pip install 'ssl-med[hub]'") from None

    class HubModel(Pretrained, PyTorchModelHubMixin, library_name="ssl_med"):  # type: ignore[misc, call-arg, unused-ignore]
        """An encoder of a folder or repository of Hugging Face; give `strict=True`, so that no tensor stays random."""

    return HubModel
