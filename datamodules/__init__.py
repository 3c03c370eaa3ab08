"""Dataset families: one file each, read as they are distributed."""
