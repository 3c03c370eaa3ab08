"""Types of the Python interface, for editors and type checkers; `__init__.py` loads the functions when they are used."""

from experiments.api.calls import compare as compare
from experiments.api.calls import external as external
from experiments.api.calls import finetune as finetune
from experiments.api.calls import list_methods as list_methods
from experiments.api.calls import pretrain as pretrain
from experiments.api.calls import probe as probe
from experiments.api.calls import report as report
from experiments.api.networks import embed as embed
from experiments.api.networks import load_backbone as load_backbone
from experiments.api.networks import load_weights as load_weights

__all__: list[str]
