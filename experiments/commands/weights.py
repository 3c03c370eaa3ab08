"""`ssl-med weights`: look into weights from anywhere, import them, check their features, write them for other programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_med.catalogue import nearest
from ssl_med.spec import SslMedError

if TYPE_CHECKING:  # a refused command needs none of the seconds that torch takes
    from ssl_med.weights.core.convert import Converted, Plan, Wishes
    from ssl_med.weights.core.find import Match

USAGE = (
    "ssl-med weights inspect|import|verify|export FILE [family=NAME] [out=FILE] [allow=[KEY,...]] [inflate=i3d|centre] "
    "[channels=N] [backbone.KEY=VALUE] [against=FILE.npz] [to=NAME]"
)
EXAMPLES = (
    "ssl-med weights inspect runs/pretrain/pcrl-luna-1a2b3c4d",
    "ssl-med weights inspect resnet18.pth",
    "ssl-med weights import resnet18.pth family=torchvision out=imagenet.safetensors",
    "ssl-med weights verify resnet18.pth against=features.npz",
    "ssl-med weights export runs/pretrain/moco-chest14-1a2b3c4d to=torchvision out=resnet18.pth",
)
OPTIONS = {
    "family=NAME": "whose weights they are (ssl-med list families), where several families recognise the file",
    "out=FILE": "import: the backbone file to write, .safetensors; export: what the form asks for",
    "allow=[KEY,...]": "keys, or patterns with *, that may be unexplained, missing or mismatched; every report lists them",
    "inflate=i3d|centre": "2D weights for volumes: repeated and divided by depth, or in the middle of the kernel",
    "channels=N": "fit the first layer to images of N channels",
    "backbone.KEY=VALUE": "a setting of the network that is to be other than the family says, such as backbone.dilated=false",
    "against=FILE.npz": "verify: `input` as the original network took it (or `image`, scaled to [0, 1]) and its `features`",
    "to=NAME": "export: the form (ssl-med list exporters)",
}
_IMPORT = ("family", "allow", "inflate", "channels")
_KEYS = {"inspect": _IMPORT, "import": (*_IMPORT, "out"), "verify": (*_IMPORT, "against"), "export": ("to", "out")}


def run(arguments: Sequence[str]) -> None:
    """Carries out the command."""
    action, *rest = arguments or [""]
    actions: dict[str, Callable[[Path, dict[str, Any]], None]] = {
        "inspect": inspect,
        "import": import_file,
        "verify": verify,
        "export": export,
    }
    if action not in actions or not rest or "=" in rest[0]:
        raise SslMedError(f"weights: say `{USAGE}`")
    actions[action](Path(rest[0]), _words(action, rest[1:]))


def inspect(path: Path, words: dict[str, Any]) -> None:
    """Prints the card of a backbone file; of a foreign one its family, network, contract and the table of its tensors."""
    from ssl_med.weights.core.load import is_ours

    if is_ours(path, words.get("family", "")):
        _refuse_of_ours(path, words)
        _print_card(path)
        return
    match, planned = _planned(path, words)
    _tell(match, planned)
    verdict = (
        "fills the network" if planned.account.complete else "does not fill the network: an import would be refused"
    )
    print(f"{verdict}; nothing was written")


def import_file(path: Path, words: dict[str, Any]) -> None:
    """Fills one of our encoders completely, and writes it with a card."""
    out = Path(words.get("out", ""))
    if out.suffix != ".safetensors":
        raise SslMedError("weights import: out=FILE.safetensors is missing: say where to write the backbone file")
    if out.exists():
        raise SslMedError(f"out={out}: is there already; remove it or choose another file")
    from ssl_med.checkpoint import save_backbone
    from ssl_med.weights.core.load import is_ours

    if is_ours(path, words.get("family", "")):
        raise SslMedError(f"{path}: is a backbone file already; give init={path} as it is")
    found = _converted(path, words)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_backbone(out, backbone=found.backbone, decoder=found.decoder, card=found.card)
    print(f"backbone for finetune: init={out}")


def verify(path: Path, words: dict[str, Any]) -> None:
    """Prints the table, numbers of the features of a seeded image, and their difference from those of another program."""
    from ssl_med.weights.core.load import is_ours, read_ours
    from ssl_med.weights.core.verify import compared, features_of_seed, seeded_sides

    if is_ours(path, words.get("family", "")):
        _refuse_of_ours(path, words)
        backbone = read_ours(path).backbone.eval()
    else:
        backbone = _converted(path, words).backbone.eval()
    sides = seeded_sides(backbone)
    print(f"features of a seeded image of {' x '.join(map(str, sides))}:")
    for line in features_of_seed(backbone, sides):
        print(f"  {line}")
    if words.get("against"):
        for line in compared(backbone, Path(words["against"])):
            print(line)


def export(path: Path, words: dict[str, Any]) -> None:
    """Writes a network of ours in the form of another program."""
    for key in ("to", "out"):
        if not words.get(key):
            raise SslMedError(f"weights export: {key}= is missing; say `to=NAME out=PATH` (ssl-med list exporters)")
    from experiments.run.exported import finetuned_source, is_finetuned
    from ssl_med.weights.core.exporter import export as write
    from ssl_med.weights.core.exporter import exporter_of
    from ssl_med.weights.core.load import read_ours

    exporter_of(words["to"])
    source = finetuned_source(path) if is_finetuned(path) else read_ours(path)
    for line in write(source, words["to"], Path(words["out"])):
        print(line)
    print(f"written: {words['out']}")


def _words(action: str, rest: Sequence[str]) -> dict[str, Any]:
    """`key=value` words, those of allow, channels and backbone as values."""
    from ssl_med.config import parse_overrides
    from ssl_med.values import elements, parse_yaml, unquoted

    known = _KEYS[action]
    tree = dict(parse_overrides(rest).tree)
    for key in tree:
        if key not in (*known, *(("backbone",) if "family" in known else ())):
            raise SslMedError(f"weights {action}: '{key}' is unknown{nearest(key, list(known))}")
    words: dict[str, Any] = {key: unquoted(str(value)) for key, value in tree.items() if key != "backbone"}
    if "allow" in words:
        text = str(tree["allow"])
        words["allow"] = [unquoted(key) for key in (elements(text) if text.startswith("[") else [text])]
    if "backbone" in tree:
        words["backbone"] = {key: parse_yaml(str(value)) for key, value in tree["backbone"].items()}
    return words


def _refuse_of_ours(path: Path, words: dict[str, Any]) -> None:
    """Words that change an import mean nothing for weights that are imported already."""
    given = [key for key in words if key in (*_IMPORT, "backbone")]
    if given:
        raise SslMedError(
            f"{path}: is weights of ours, with a card; {', '.join(given)} would change nothing, leave it out"
        )


def _wishes(words: dict[str, Any]) -> Wishes:
    from ssl_med.weights.core.convert import Wishes

    channels = str(words.get("channels", "0"))
    if not channels.isdigit() or len(channels) > 4:
        raise SslMedError(f"channels={channels}: give a positive number")
    return Wishes(
        allow=tuple(words.get("allow", ())),
        inflate=words.get("inflate", ""),
        channels=int(channels),
        backbone=words.get("backbone"),
    )


def _planned(path: Path, words: dict[str, Any]) -> tuple[Match, Plan]:
    from ssl_med.weights.core.convert import plan
    from ssl_med.weights.core.find import choose, opened

    match = choose(opened(path), words.get("family", ""))
    return match, plan(match, _wishes(words))


def _converted(path: Path, words: dict[str, Any]) -> Converted:
    from experiments.run.environment import git_revision, versions
    from ssl_med.weights.core.convert import fill

    match, planned = _planned(path, words)
    _tell(match, planned)
    found = fill(match, planned, _wishes(words), versions=versions(), git=git_revision())
    for note in found.notes[len(planned.notes) :]:
        print(f"note: {note}")
    return found


def _tell(match: Match, planned: Plan) -> None:
    """Family, licence, network, contract and table."""
    from ssl_med.weights.core.origin import origin_line

    print(origin_line(match.name, match.family))
    print(f"source: {match.family.source}")
    network = planned.architecture
    decoder = ", with its decoder" if network.decoder else ""
    print(f"network: {network.config.name}, {network.spatial_dims}D, {network.in_channels} channel(s){decoder}")
    print("images:")
    for line in planned.contract.lines():
        print(f"  {line}")
    where = f" in '{match.file.container}'" if match.file.container else ""
    print(f"tensors of {match.file.path}{where}: {planned.account}")
    for line in planned.account.table():
        print(f"  {line}")
    for note in planned.notes:
        print(f"note: {note}")
    if saw := match.family.seen(match.file):
        print(f"note: these weights saw {', '.join(saw)}: a result on one of them is no test on unseen patients")


def _print_card(path: Path) -> None:
    """The card of a backbone file; the hashes in it as numbers."""
    from ssl_med.checkpoint import find_backbone, read_card
    from ssl_med.config import to_yaml

    card = read_card(find_backbone(str(path)))
    plain = card.plain()
    for key in ("subjects", "volumes", "validated"):
        plain[key] = f"{len(plain[key])} hashed"
    print(to_yaml(json.loads(json.dumps(plain))), end="")
    print("# images:")
    for line in card.input_contract().lines():
        print(f"#   {line}")
