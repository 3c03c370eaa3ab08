"""A Wasserstein critic that trains itself: the other half of an adversarial loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ssl_med.distributed import all_reduce_mean
from ssl_med.methods.core.measures import to_float32


class Critic(nn.Module):
    """Scores patches of images: high where they look real (Gulrajani et al. 2017, "Improved training of Wasserstein GANs").

    Strided convolutions and leaky ReLU, without normalisation, which would tie the samples that the gradient penalty
    treats one by one. Its weights, and the moments of its own Adam, are buffers: no optimiser of the method ever sees them,
    and all of it is saved.

    Args:
        channels: of the images, and of what it sees beside them.
        widths: of the levels, each half as large as the one before.
        spatial_dims: 2 or 3.
        lr: of its Adam.
        betas: of its Adam.
        penalty: weight of the gradient penalty.
    """

    steps: Tensor

    def __init__(
        self,
        channels: int,
        widths: Sequence[int],
        *,
        spatial_dims: int,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        penalty: float = 10.0,
    ) -> None:
        super().__init__()
        convolution = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        parts: list[nn.Module] = []
        for width in widths:
            parts += [convolution(channels, width, 3, stride=2, padding=1), nn.LeakyReLU(0.2)]
            channels = width
        self.net = nn.Sequential(*parts, convolution(channels, 1, 1)).requires_grad_(False)
        self.lr, self.betas, self.penalty = lr, betas, penalty
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        for name, weight in self.net.named_parameters():
            for moment in ("first", "second"):
                self.register_buffer(f"{moment}_{name.replace('.', '_')}", torch.zeros_like(weight))

    def forward(self, image: Tensor, beside: Tensor) -> Tensor:
        """(B, C, *S) and what it was made from, (B, K, *S) -> mean score of each sample (B,)."""
        return self._score({}, image, beside)

    def _score(self, weights: dict[str, Tensor], image: Tensor, beside: Tensor) -> Tensor:
        scores: Tensor = functional_call(self.net, weights, (torch.cat([image, beside], 1),))
        return scores.flatten(1).mean(1)

    def loss(self, weights: dict[str, Tensor], real: Tensor, made: Tensor, beside: Tensor, mix: Tensor) -> Tensor:
        """E D(made) - E D(real) + penalty E (|grad D(x)| - 1)^2, x on the line between real and made.

        Args:
            weights: of the network by name; empty: its own.
            real: (B, C, *S).
            made: (B, C, *S).
            beside: (B, K, *S), what both are scored with.
            mix: (B,) in [0, 1], place of x on the line; 1 is real.
        """
        place = mix.to(real.dtype).view(-1, *[1] * (real.ndim - 1))
        between = torch.lerp(made, real, place).requires_grad_()
        scores = self._score(weights, torch.cat([made, real, between]), beside.repeat(3, *[1] * (beside.ndim - 1)))
        on_made, on_real, on_line = scores.chunk(3)
        (slope,) = torch.autograd.grad(on_line.sum(), between, create_graph=True)
        steepness = (slope.flatten(1).norm(dim=1) - 1).square()
        loss: Tensor = (on_made - on_real + self.penalty * steepness).mean()
        return loss

    def learn(self, real: Tensor, made: Tensor, beside: Tensor, mix: Tensor) -> Tensor:
        """One step of Adam on `loss`, with the gradient averaged over processes; returns the loss before it."""
        real, made, beside = (to_float32(x.detach()) for x in (real, made, beside))
        with torch.enable_grad(), torch.autocast(real.device.type, enabled=False):
            weights = {name: w.detach().requires_grad_() for name, w in self.net.named_parameters()}
            loss = self.loss(weights, real, made, beside, mix)
            gradients = torch.autograd.grad(loss, list(weights.values()))
        with torch.no_grad():
            self._adam({name: all_reduce_mean(g) for name, g in zip(weights, gradients, strict=True)})
        return loss.detach()

    def _adam(self, gradients: dict[str, Tensor]) -> None:
        self.steps += 1
        t = self.steps.to(torch.float64)
        one, two = self.betas
        for name, weight in self.net.named_parameters():
            first = self.get_buffer(f"first_{name.replace('.', '_')}")
            second = self.get_buffer(f"second_{name.replace('.', '_')}")
            first.lerp_(gradients[name], 1 - one)
            second.lerp_(gradients[name].square(), 1 - two)
            size = (self.lr / (1 - one**t)).to(weight.dtype)
            spread = (second / (1 - two**t).to(weight.dtype)).sqrt()
            weight.sub_(size * first / (spread + 1e-8))
