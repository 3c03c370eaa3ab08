"""`ssl-med weights`: print the card of a backbone file, or turn weights from elsewhere into one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ssl_med.catalogue import get_class, list_names, nearest
from ssl_med.spec import SslMedError

USAGE = "ssl-med weights inspect RUN|FILE, or ssl-med weights import FILE out=FILE.safetensors [family=NAME]"
EXAMPLES = (
    "ssl-med weights inspect runs/pretrain/pcrl-luna-1a2b3c4d",
    "ssl-med weights import resnet18.pth family=torchvision out=imagenet.safetensors",
)
FAMILIES = "ssl_med.weights"


def run(arguments: Sequence[str]) -> None:
    """Carries out the command."""
    action, *rest = arguments or [""]
    if action == "inspect" and len(rest) == 1:
        inspect(rest[0])
    elif action == "import" and rest and "=" not in rest[0]:
        given = dict(word.partition("=")[::2] for word in rest[1:])
        unknown = [word for word in rest[1:] if word.partition("=")[0] not in ("family", "out") or "=" not in word]
        if unknown:
            raise SslMedError(f"weights import: '{unknown[0]}' is unknown; give family=NAME and out=FILE.safetensors")
        convert_file(Path(rest[0]), family=given.get("family", ""), out=given.get("out", ""))
    else:
        raise SslMedError(f"weights: say `{USAGE.replace(', or ', '` or `')}`")


def inspect(init: str) -> None:
    """Prints the card of a backbone file; the hashes in it as numbers."""
    from ssl_med.checkpoint import find_backbone, read_card
    from ssl_med.config import to_yaml

    card = asdict(read_card(find_backbone(init)))
    for key in ("subjects", "volumes", "validated"):
        card[key] = f"{len(card[key])} hashed"
    print(to_yaml(json.loads(json.dumps(card))), end="")


def convert_file(path: Path, *, family: str, out: str) -> None:
    """Reads weights from elsewhere, fills one of our encoders completely, and writes it with a card.

    Args:
        path: of the foreign file.
        family: name of a file in ssl_med/weights; "": the one that recognises the file.
        out: file to write.

    Raises:
        SslMedError: no or several families recognise the file, it does not fill the network, or `out` cannot be used.
    """
    target, known = Path(out), list_names(FAMILIES)
    if target.suffix != ".safetensors":
        raise SslMedError("weights import: out=FILE.safetensors is missing: say where to write the backbone file")
    if target.exists():
        raise SslMedError(f"out={out}: is there already; remove it or choose another file")
    if family and family not in known:
        raise SslMedError(f"family '{family}' is unknown{nearest(family, known)}")
    from experiments.run.environment import git_revision, versions
    from ssl_med.checkpoint import save_backbone
    from ssl_med.weights.core.family import Family, convert, read_state

    state = read_state(path)
    classes = {name: get_class(FAMILIES, name, kind="family", base=Family) for name in ([family] if family else known)}
    fitting = [name for name, one in classes.items() if family or one().recognises(state)]
    if len(fitting) != 1:
        which = (
            f"several families recognise it: {', '.join(fitting)}"
            if fitting
            else f"no family knows its {len(state)} keys"
        )
        raise SslMedError(f"{path}: {which}; name one, family=NAME: {', '.join(known)}")
    found = convert(path, fitting[0], classes[fitting[0]](), versions=versions(), git=git_revision())
    target.parent.mkdir(parents=True, exist_ok=True)
    save_backbone(target, backbone=found.backbone, decoder=None, card=found.card)
    about = classes[fitting[0]]
    print(f"family: {fitting[0]} ({about.citation}); licence: {about.licence}")
    print(f"tensors: {found.account}")
    for note in found.notes:
        print(f"note: {note}")
    print(f"backbone for finetune: init={target}")
