"""`ssl-med weights`: print what a backbone file says of itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from ssl_med.checkpoint import find_backbone, read_card
from ssl_med.config import to_yaml
from ssl_med.spec import SslMedError

USAGE = "ssl-med weights inspect RUN|FILE"
EXAMPLES = (
    "ssl-med weights inspect runs/pretrain/pcrl-luna-1a2b3c4d",
    "ssl-med weights inspect backbone.safetensors",
)


def run(arguments: Sequence[str]) -> None:
    """Carries out the command."""
    if len(arguments) != 2 or arguments[0] != "inspect":
        raise SslMedError("weights: say `weights inspect FILE`")
    card = asdict(read_card(find_backbone(arguments[1])))
    for key in ("subjects", "volumes", "validated"):
        card[key] = f"{len(card[key])} hashed"
    print(to_yaml(json.loads(json.dumps(card))), end="")
