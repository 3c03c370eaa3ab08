"""Self-supervised learning for medical imaging: the library. It knows tensors, never file names."""
