"""Figures of a report, from plain arrays and runs."""
