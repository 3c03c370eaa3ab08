"""PCRL: contrastive learning that also preserves what the image looks like.

Paper: Zhou et al., "Preservational learning improves self-supervised medical image models by reconstructing diverse
contexts", ICCV 2021. Official code: github.com/Luchixiang/PCRL @ 197bf91 (no licence; nothing of it is used here).

Three branches (ordinary o, momentum m, hybrid h) share one decoder, which must restore T_k(X_k), a flipped and rotated
clean crop, from features of the corrupted crop that TransAtt has informed which T_k was drawn.

Paper and official code are two methods, the presets `pcrl/paper` and `pcrl/code`. [A page](explanation/pcrl.md) sets them
beside the default; `pcrl/paper/contraloss` is an ablation of one of them.

Where we differ by default, and why:
- attention is the `gate` form: the paper's outer product holds C^3 weights (134 M at C = 512, twelve times a ResNet-18).
- the contrast compares features before TransAtt, as the official code does, so that they are those that travel.
- the keys of the momentum branch alone enter the queue; the paper pushes those of all branches.
- targets are transforms of the clean crop, as in the paper; the official code transforms the corrupted one.
- lambda is Beta(1, 1) as in the paper; the official code folds it to max(lambda, 1 - lambda).
- in 2D the official code corrupts by jitter, blur and cutout and in 3D by shuffling and painting; we do the same, with
  the paper's <= 10 degree rotation of volumes applied to the clean crop, so that input and target share one frame. Blur in 2D
  is as wide, relative to the crop, as the official code's in crops of 224 pixels.

Where every form differs, and why:
- the positive is part of the denominator of InfoNCE; eq. 7 as printed leaves it out.
- the teacher normalises with averaged running statistics (EMAN, Cai et al., CVPR 2021) instead of ShuffleBN.
- the queue starts with the first batch's keys in all places, not with random directions (networks/queue.py says why).
- NCE is without the official 1e-5 in its denominators, which are as small, as in `c2l`.
- the ablation with RotNet (Table 2) is not described further: the clean ordinary crop, turned by a random quarter, passes
  the encoder once more, so that the contrasted views stay those of the contrastive loss alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_med.distributed import gather
from ssl_med.methods.core.about import RETRIEVAL, Paper
from ssl_med.methods.core.base import Tensors
from ssl_med.methods.core.branch_views import BranchViews, PCRLConfig
from ssl_med.methods.core.measures import retrieval, to_float32
from ssl_med.methods.core.pair import Embedding
from ssl_med.methods.core.restoring import Restores
from ssl_med.methods.core.transatt import TransAtt
from ssl_med.networks.ema import EMA
from ssl_med.networks.heads import ClassificationHead, Projector, RestorationHead
from ssl_med.networks.queue import Queue
from ssl_med.spec import DataSpec, Need, SslMedError
from ssl_med.transforms.spatial import indicator, sample_flip

# crop sizes of the paper's 3D pairs (64x64x32, 96x96x48, 96^3, 32x32x16, 112x112x56) as multiples of 64x64x32; the official
# code has 112x112x64 in place of the last
PAIR_SCALES_3D = ((1.0, 1.0, 1.0), (1.5, 1.5, 1.5), (1.5, 1.5, 3.0), (0.5, 0.5, 0.5), (1.75, 1.75, 1.75))


class PCRL(Restores, BranchViews):
    """Contrast with a queue, and restoration of transformed contexts by three branches."""

    Config = PCRLConfig
    family = ("contrast", "restoration")
    paper = Paper(
        "Zhou et al.",
        "Preservational learning improves self-supervised medical image models by reconstructing diverse contexts",
        "ICCV",
        2021,
    )
    needs_decoder = True
    metric = RETRIEVAL
    config: PCRLConfig

    @classmethod
    def need(cls, config: PCRLConfig, spec: DataSpec) -> Need:
        """Overlapping crop pairs; of an image, random resized crops."""
        if spec.spatial_dims == 2:
            return Need(pair=True, min_iou=config.min_iou)
        if config.pair_sizes == "equal":
            return Need(pair=True, min_iou=config.min_iou, pair_scales=PAIR_SCALES_3D)
        scales = (*PAIR_SCALES_3D[:-1], (1.75, 1.75, 2.0))
        return Need(pair=True, min_iou=config.min_iou, pair_scales=scales, equal_pairs=False)

    def build(self) -> None:
        """Projector, queue and, with reconstruction, decoder, attention and output head, or RotNet's head."""
        c, width, dims = self.config, self.backbone.out_channels, self.spec.spatial_dims
        self.projector = Projector(width, c.out_dim, c.out_dim, layers=2, norm=False, entry=self.rescaling())
        self.queue = Queue(c.out_dim, c.queue)
        self.register_buffer("mean", torch.zeros(()), persistent=c.loss == "nce")
        if c.reconstruct:
            self.decoder = self.backbone.build_decoder()
            self.head = RestorationHead(
                self.decoder.out_channels, self.spec.in_channels, dims, activation="sigmoid" if dims == 3 else "linear"
            )
            if c.transform != "none":
                self.attention = TransAtt(width, dims + 4, spatial_dims=dims, form=c.attention)
        if c.rotnet:
            size = self.spec.patch_size
            if size[0] != size[1]:
                raise SslMedError(
                    f"data.patch_size {list(size)}: method.rotnet turns crops by quarters in the plane of the first two "
                    "axes, which must be a square"
                )
            self.rotation_head = ClassificationHead(width, 4)

    def after_init(self) -> None:
        """The momentum encoder starts as a copy."""
        self.teacher = EMA(Embedding(self.backbone, self.projector))

    def terms(self, views: Tensors) -> Tensors:
        """0.5 contrast + 0.5 sum over branches of MSE (Sec. 3.3), in the default's weights."""
        c = self.config
        ordinary = self.backbone(views["input_o"])
        momentum, key = self.teacher(views["input_m"])
        branches = self.branches(ordinary, momentum, views)
        pooled = self.backbone.pool(ordinary)
        seen = pooled
        if c.contrast_after and c.reconstruct and c.transform != "none":
            seen, key = self.backbone.pool(branches["o"]), self.key(branches["m"])
        q, k = (F.normalize(to_float32(x), dim=1) for x in (self.projector(seen), key))
        contrasts, mixed = self.contrasts(q, k, branches, views)
        terms = {name: value.detach() for name, value in contrasts.items()}
        terms |= {"features": pooled.detach(), "pair": torch.stack([q, k]).detach(), **retrieval(q, k)}
        loss = c.contrast_weight * torch.stack(list(contrasts.values())).mean()
        if c.reconstruct:
            restored = self.restore(branches if c.restore_momentum else _without(branches, "m")) | self.restore(mixed)
            errors = {f"restore_{k}": F.mse_loss(to_float32(x), views[f"target_{k}"]) for k, x in restored.items()}
            loss = loss + c.restore_weight * torch.stack(list(errors.values())).sum()
            terms |= {name: value.detach() for name, value in errors.items()}
        if c.rotnet:
            logits = to_float32(self.rotation_head(self.backbone.pool(self.backbone(views["turned"]))))
            rotation = F.cross_entropy(logits, views["turns"])
            loss = loss + c.restore_weight * rotation
            right = (logits.argmax(1) == views["turns"]).float().mean()
            terms |= {"rotation": rotation.detach(), "rotation_accuracy": right}
        return {"loss": loss, **terms}

    def branches(self, ordinary: list[Tensor], momentum: list[Tensor], views: Tensors) -> dict[str, list[Tensor]]:
        """Pyramids of the branches, every level of the hybrid one mixed (eq. 6), the last level after TransAtt."""
        c = self.config
        found = {"o": ordinary, "m": momentum}
        if c.crossmix and (c.hybrid == "own" or c.transform == "none"):
            found["h"] = _mixed(found, views["mix"])
        if c.reconstruct and c.transform != "none":
            v = torch.cat([views[f"indicator_{k}"] for k in found])
            last = self.attention(torch.cat([pyramid[-1] for pyramid in found.values()]), v).chunk(len(found))
            found = {k: [*found[k][:-1], x] for k, x in zip(found, last, strict=True)}
        if c.crossmix and "h" not in found:
            found["h"] = _mixed(found, views["mix"])
        return found

    def contrasts(
        self, q: Tensor, k: Tensor, branches: dict[str, list[Tensor]], views: Tensors
    ) -> tuple[Tensors, dict[str, list[Tensor]]]:
        """The contrast, with mixup two more, and the pyramids of the mixtures; in training keys enter the queue.

        Args:
            q: (B, d) unit queries.
            k: (B, d) unit keys.
            branches: as from `branches`.
            views: as from `views`.
        """
        c, mixed = self.config, dict[str, list[Tensor]]()
        self.settle(q, k)
        terms = {"contrast": self.contrast(q, k)}
        everyone = gather(k) if self.training or c.mixup else k
        self.enqueue(everyone, early=True)
        if c.mixup:
            mixed["mixed_o"] = self.backbone(views["mixed_o"])
            query = F.normalize(to_float32(self.projector(self.backbone.pool(mixed["mixed_o"]))), dim=1)
            momentum, key = self.teacher(views["mixed_m"])
            if c.crossmix:
                mixed["mixed_h"] = _mixed({"o": mixed["mixed_o"], "m": momentum}, views["mixed_mix"])
            other = everyone[views["partner"].long()]
            second = {
                "contrast_mix": to_float32(key),
                "contrast_features": torch.lerp(other, k, views["share"].to(k.dtype)),
            }
            for name, one in second.items():
                one = F.normalize(one, dim=1)
                terms[name] = self.contrast(query, one)
                self.enqueue(gather(one), early=True)
        keys = [everyone]
        if c.push == "branches" and self.training:
            keys += [gather(q.detach())]
            keys += [gather(F.normalize(to_float32(self.key(branches["h"])), dim=1))] if "h" in branches else []
        self.enqueue(torch.cat(keys), early=False)
        return terms, mixed

    def enqueue(self, keys: Tensor, *, early: bool) -> None:
        """Pushes (B, d) keys in training: right after their contrast, or after all of them, as `push` has it."""
        if self.training and early is (self.config.push == "contrasts"):
            self.queue.push(keys)

    @torch.no_grad()
    def key(self, pyramid: list[Tensor]) -> Tensor:
        """(B, d) what the momentum branch's projector makes of a pyramid, not normalised."""
        projector: Any = self.teacher.module.projector
        key: Tensor = projector(self.backbone.pool(pyramid))
        return key

    def restore(self, branches: dict[str, list[Tensor]]) -> Tensors:
        """What the decoder shows of each branch; they pass it as one batch."""
        assert self.decoder is not None
        if not branches:
            return {}
        pyramid = [torch.cat(level) for level in zip(*branches.values(), strict=True)]
        return dict(zip(branches, self.head(self.decoder(pyramid)).chunk(len(branches)), strict=True))

    @property
    def restores(self) -> bool:
        """Where it has a decoder."""
        return self.config.reconstruct

    def restored(self, image: Tensor, generator: torch.Generator) -> Tensors:
        """By the ordinary branch, which is told to neither mirror nor turn; and of the image without a corruption."""
        corrupted = self.corrupt(image, generator)
        pyramids = {"restored": self.backbone(corrupted), "unchanged": self.backbone(image)}
        if self.config.transform != "none":
            still = indicator(sample_flip(len(image), self.spec.spatial_dims, generator, p=0.0))
            pyramids = {name: [*x[:-1], self.attention(x[-1], still)] for name, x in pyramids.items()}
        return {"corrupted": corrupted, **self.restore(pyramids)}

    def after_step(self) -> None:
        """theta_m <- beta theta_m + (1 - beta) theta_o."""
        self.teacher.update(Embedding(self.backbone, self.projector), self.config.momentum)


def _mixed(branches: dict[str, list[Tensor]], share: Tensor) -> list[Tensor]:
    """Lambda F_o + (1 - lambda) F_m at each level (eq. 6)."""
    pairs = zip(branches["o"], branches["m"], strict=True)
    return [torch.lerp(m, o, share.to(o.dtype)) for o, m in pairs]


def _without(branches: dict[str, list[Tensor]], name: str) -> dict[str, list[Tensor]]:
    return {k: pyramid for k, pyramid in branches.items() if k != name}
