"""The run folder, the Trainer and its callbacks."""
