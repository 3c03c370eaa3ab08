"""Base class of the methods, one module per family of shared parts, and their schedules, checks and measures."""
