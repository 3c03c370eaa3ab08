"""Tasks, transfer and metrics."""
