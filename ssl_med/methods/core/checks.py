"""Checks of settings that a range of one number cannot state."""

from __future__ import annotations

from ssl_med.spec import SslMedError


def check_order(prefix: str = "", **values: tuple[float, float]) -> None:
    """Refuses intervals whose ends are the wrong way round; keywords are keys below `prefix`, which ends with a dot."""
    for key, (low, high) in values.items():
        if low > high:
            raise SslMedError(f"{prefix}{key} is {[low, high]}; its first number must not be above its second one")
