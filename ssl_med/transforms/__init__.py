"""Batched transforms on any device: `(x, generator, ...) -> Tensor`."""
