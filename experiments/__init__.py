"""Experiments: the command line, run configs, tracking."""
