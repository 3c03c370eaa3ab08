"""What families of vision transformers share: names, sizes from shapes, and positions of tokens as a grid.

The layout is that of timm and of everything that began as a copy of it: cls_token, pos_embed, patch_embed.proj,
blocks.N.{norm1, attn.qkv, attn.proj, ls1.gamma, norm2, mlp.fc1, mlp.fc2, ls2.gamma}, norm. Layers of a SwiGLU are named
fc1, fc2 (timm), w12, w3 (DINOv2) or w1, w2, w3 (DINOv3).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from ssl_med.networks.backbone import backbone_config
from ssl_med.spec import SslMedError
from ssl_med.weights.core.adapt import positions
from ssl_med.weights.core.family import Architecture, Family
from ssl_med.weights.core.files import ForeignFile, State
from ssl_med.weights.core.rules import Drop, Fuse, Rename, Rule

# width -> heads of the published networks: tiny, small, base, large, huge, and DINOv2's giant
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1536: 24}
_BLOCK = (
    r"(norm[12]\.(weight|bias)|attn\.(qkv|proj)\.(weight|bias)|attn\.qkv\.bias_mask|ls[12]\.gamma|"
    r"mlp\.(fc[12]|w12|w[123])\.(weight|bias))"
)
_LAYOUT = re.compile(
    rf"cls_token|pos_embed|reg_token|(register|storage)_tokens|mask_token|patch_embed\.proj\.(weight|bias)|"
    rf"blocks\.(\d+\.)?\d+\.{_BLOCK}|(local_cls_|cls_)?norm\.(weight|bias)|rope_embed\.periods"
)

# of an encoder without prefixes
ENCODER: tuple[Rule, ...] = (
    Drop(r"mask_token", "token of masked patches"),
    Rename(r"cls_token", "positions.cls"),
    Rename(r"pos_embed", "positions.patches"),
    Rename(r"(?:reg_token|register_tokens|storage_tokens)", "positions.registers"),
    Rename(r"rope_embed\.periods", "positions.periods"),
    Rename(r"patch_embed\.proj\.(.*)", r"embed.\1"),
    Rename(r"blocks\.\d+\.(\d+\..*)", r"blocks.\1"),  # chunks of blocks; the second number counts all of them
    Rename(r"(blocks\.\d+)\.attn\.proj\.(.*)", r"\1.attn.out_proj.\2"),
    Rename(r"(blocks\.\d+)\.ls([12])\.gamma", r"\1.scale\2"),
    Rename(r"(blocks\.\d+\.mlp)\.(?:fc1|w12)\.(.*)", r"\1.linear1.\2"),
    Rename(r"(blocks\.\d+\.mlp)\.(?:fc2|w3)\.(.*)", r"\1.linear2.\2"),
    Fuse(r"(blocks\.\d+\.mlp)\.(?P<part>w[12])\.weight", ("w1", "w2"), r"\1.linear1.weight"),
    Fuse(r"(blocks\.\d+\.mlp)\.(?P<part>w[12])\.bias", ("w1", "w2"), r"\1.linear1.bias"),
)


class TokenFamily(Family):
    """A family of vision transformers with learned positions, which become a grid."""

    def adjust(self, tensors: State, file: ForeignFile) -> list[str]:
        """Positions become a grid; the class token takes its own."""
        place(tensors)
        return []


def inner(state: Mapping[str, Tensor], prefix: str = "") -> State:
    """Tensors whose key begins with a regular expression, by the rest of the key."""
    return {found[1]: value for key, value in state.items() if (found := re.fullmatch(f"(?:{prefix})(.*)", key))}


def is_transformer(state: Mapping[str, Tensor], *, beside: str = "(?!)", dims: int = 2) -> bool:
    """Whether keys without prefixes are those of a vision transformer; `beside`: of further keys that may be there."""
    first = state.get("patch_embed.proj.weight")
    if first is None or first.ndim != dims + 2 or "cls_token" not in state:
        return False
    return all(_LAYOUT.fullmatch(key) or re.fullmatch(beside, key) for key in state)


def network(
    state: Mapping[str, Tensor], *, heads: Mapping[int, int] = HEADS, eps: float = 1e-6, resize: str = "plain"
) -> Architecture:
    """The vision transformer of tensors without prefixes.

    Args:
        state: tensors by the layout above.
        heads: width -> attention heads, which no shape tells.
        eps: of the layer normalisation, which no tensor tells either.
        resize: how the original fits its positions to another grid.

    Raises:
        SslMedError: a width that no published network has, or tokens that make no grid.
    """
    width, channels, *sides = state["patch_embed.proj.weight"].shape
    if len(set(sides)) > 1:
        raise SslMedError(f"has patches of {' x '.join(map(str, sides))}; only those with equal sides exist here")
    if width not in heads:
        known = ", ".join(map(str, heads))
        raise SslMedError(
            f"has tokens of {width} channels, and the file does not say its attention heads; known are {known}"
        )
    blocks = {int(found[1]) for key in state if (found := re.match(r"blocks\.(?:\d+\.)?(\d+)\.\w+\.", key))}
    first = f"blocks.{_chunk(state)}0"
    if f"{first}.mlp.w1.weight" in state:
        gated, hidden = True, state[f"{first}.mlp.w1.weight"].shape[0]
    else:
        names = ("w12", "w3") if f"{first}.mlp.w12.weight" in state else ("fc1", "fc2")
        into, out = (state[f"{first}.mlp.{name}.weight"].shape for name in names)
        gated, hidden = into[0] == 2 * out[1], out[1]
    front = register_tokens(state)
    settings: dict[str, Any] = {"positions": "rotary"} if "pos_embed" not in state else {"resize": resize}
    if "pos_embed" in state:
        settings["grid"] = grid_of(state["pos_embed"].shape[1], len(sides), front)[0]
    config = backbone_config(
        "vit",
        width=width,
        depth=max(blocks, default=-1) + 1,
        heads=heads[width],
        mlp=hidden,
        patch=sides[0],
        registers=front,
        qkv_bias=f"{first}.attn.qkv.bias" in state,
        gated=gated,
        layer_scale=1e-5 if f"{first}.ls1.gamma" in state else 0.0,
        norm_eps=eps,
        **settings,
    )
    return Architecture(config, len(sides), channels)


def grid_of(tokens: int, dims: int, registers: int) -> tuple[int, int]:
    """Side of the grid of so many positions, and how many of them belong to tokens in front of it.

    Raises:
        SslMedError: they make no square or cube.
    """
    for before in (1, 0, 1 + registers):
        side = round(max(0, tokens - before) ** (1 / dims))
        if side > 0 and side**dims == tokens - before:
            return side, before
    raise SslMedError(f"has positions of {tokens} tokens, which make no {'square' if dims == 2 else 'cube'}")


def side_of(found: Architecture) -> int:
    """Side of the images, in pixels, whose tokens have learned positions."""
    config: Any = found.config
    side: int = config.grid * config.patch
    return side


def register_tokens(state: Mapping[str, Tensor]) -> int:
    """How many registers there are."""
    found = [state[key] for key in ("reg_token", "register_tokens", "storage_tokens") if key in state]
    return found[0].shape[1] if found else 0


def place(tensors: State) -> None:
    """Renamed positions (1, T, W) become a grid, in place; the class token takes its own, as the original adds it first."""
    if "positions.patches" not in tensors:
        return
    embedding, dims = tensors["positions.patches"], tensors["embed.weight"].ndim - 2
    registers = tensors["positions.registers"].shape[1] if "positions.registers" in tensors else 0
    side, before = grid_of(embedding.shape[1], dims, registers)
    front, grid = positions(embedding, [side] * dims, before=before)
    tensors["positions.patches"] = grid
    for key, part in (("positions.cls", front[:, :1]), ("positions.registers", front[:, 1:])):
        if part.shape[1]:
            tensors[key] = tensors[key] + part


def sines(embedding: Tensor, *, first: Literal["rows", "columns"]) -> bool:
    """Whether positions (1, 1 + side², W) are fixed sines and cosines whose first half of channels belongs to that axis."""
    count, width = embedding.shape[1] - 1, embedding.shape[2]
    side = math.isqrt(max(0, count))
    if width % 4 or side**2 != count:
        return False
    rates = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * rates
    along = torch.cat([angles.sin(), angles.cos()], 1)  # (side, width / 2)
    rows = along.repeat_interleave(side, 0)
    columns = along.repeat(side, 1)
    wanted = torch.cat([rows, columns] if first == "rows" else [columns, rows], 1)
    return bool(torch.allclose(embedding[0, 1:].double(), wanted, atol=1e-3))


def configuration(file: ForeignFile) -> Mapping[str, Any]:
    """`config.json` beside the tensors; {} where there is none."""
    found = file.extra.get("config.json", {})
    return found if isinstance(found, Mapping) else {}


def _chunk(state: Mapping[str, Tensor]) -> str:
    """What stands before block 0 where the blocks lie in chunks: the first of them."""
    return "0." if any(re.match(r"blocks\.\d+\.\d+\.", key) for key in state) else ""
