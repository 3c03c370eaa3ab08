"""Self-supervised pretraining for medical images: `ssl_med.pretrain` and its like, loaded when they are first used.

`help(ssl_med.pretrain)` explains a call; `dir(ssl_med)` lists them.
"""

from typing import Any

_CALLS = ("compare", "external", "finetune", "list_methods", "pretrain", "probe", "report")
_NETWORKS = ("embed", "load_backbone", "load_weights")
__all__ = [*_CALLS, *_NETWORKS]


def __getattr__(name: str) -> Any:
    """The one upward import of the project (see CONTRIBUTING.md), by name, so that `import ssl_med` loads nothing."""
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module 'ssl_med' has no attribute '{name}'")
    return getattr(import_module(f"experiments.api.{'calls' if name in _CALLS else 'networks'}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
