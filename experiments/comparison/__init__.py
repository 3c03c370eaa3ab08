"""Comparisons: the declared table, its plan, execution, estimate and results."""
