"""Synthetic patients in the true on-disk layouts of the public datasets: one public module per layout."""
