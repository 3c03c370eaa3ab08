"""Backbones, heads, teachers and queues in 2D and 3D."""
