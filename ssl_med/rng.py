"""Generators that depend only on what they are for, so that nothing needs to be saved to replay a step."""

from __future__ import annotations

import torch

_MASK = 0xFFFFFFFFFFFFFFFF


def seeded_generator(*words: int, device: torch.device) -> torch.Generator:
    """A generator for one purpose, named by integers such as (run seed, phase, step, rank).

    The words pass through splitmix64, because neighbouring seeds must not give related streams.
    """
    mixed = 0
    for word in words:
        mixed = (mixed + word + 0x9E3779B97F4A7C15) & _MASK
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        mixed ^= mixed >> 31
    return torch.Generator(device).manual_seed(mixed >> 1)
