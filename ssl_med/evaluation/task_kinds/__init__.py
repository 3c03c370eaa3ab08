"""What can be learned of labels: one file per kind."""
