"""Checks of settings: the ranges that many methods share."""

from __future__ import annotations

from ssl_med.spec import SslMedError


def check_share(**values: float) -> None:
    """Refuses probabilities, shares and momenta outside [0, 1]; keywords are keys of the section `method`."""
    for key, value in values.items():
        if not 0 <= value <= 1:
            raise SslMedError(f"method.{key} is {value:g}; it must lie in [0, 1]")


def check_positive(**values: float) -> None:
    """Refuses values of 0 or less; keywords are keys of the section `method`."""
    for key, value in values.items():
        if value <= 0:
            raise SslMedError(f"method.{key} is {value:g}; it must be positive")
