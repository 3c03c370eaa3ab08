"""Pipelines of MONAI transforms on single samples, in the workers of a loader."""
