"""Every yaml composes with every other; what a yaml says arrives in the run, and an unknown key names its source."""

import json
import re
import shutil
from functools import cache
from itertools import cycle, product

import pytest
import yaml

from experiments.cli import main
from experiments.config import sources as layers
from experiments.config.data import compose_prepare
from experiments.config.run import compose_finetune, compose_pretrain, compose_probe
from experiments.config.sections import LoadingConfig
from experiments.config.sources import data_class_of, keys_of, names, presets
from ssl_med.config import config_hash, to_yaml
from ssl_med.methods.core.base import Method
from ssl_med.spec import SslMedError

METHODS, DATA, TASKS = (names(group) for group in ("method", "data", "task"))
TRAINERS = [name for name in names("trainer") if name != "default"]  # which changes nothing
PRESETS = list(presets())
# what only the user can say: which classes the own images have
ASKED = {"images": ["data.class_names=[normal,sick]"]}


# in C where PyYAML was built with it: the same grammar, several times as fast
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@cache
def conf(group, name):
    return yaml.load((layers.CONF / group / f"{name}.yaml").read_text(), LOADER) or {}


@cache
def dims_of(data):
    module = data_class_of(data)
    return module.make_spec(module.Config(name=data), labelled=False).spatial_dims


def leaves(tree, path=()):
    """(path, value) of every setting."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def expected(groups, dims):
    """Settings that the yamls state: later groups win, a preset over its method, within a group the part for these
    dimensions, and what a group says of the chosen trainer wins over the trainer."""
    layers = [(group, part) for group, name in groups for part in dict.fromkeys((name.split("/")[0], name))]
    trees = [conf(group, name) for group, name in layers]
    trainer = dict(groups).get("trainer")
    found = {}
    for tree in trees + [tree.get(f"when_{trainer}") or {} for tree in trees if trainer]:
        found |= dict(leaves({k: v for k, v in tree.items() if not k.startswith("when_")}))
        found |= dict(leaves(tree.get(f"when_{dims}d") or {}))
    found.pop(("default_data",), None)  # names the data where the command line does not
    return found


def check(config, groups, dims, *, reads_back=True):
    tree = config.tree()
    wanted = expected(groups, dims)
    if wanted.get(("trainer", "precision")) == "auto":  # the machine decides: here 32, see conftest.py
        assert config.precision.automatic
        wanted["trainer", "precision"] = "32"
    for path, value in wanted.items():
        node = tree
        for key in path:
            node = node[key]
        assert node == value, f"{'.'.join(path)} is {node!r}, the yamls say {value!r}"
    assert config.spec.spatial_dims == dims
    assert tree["backbone"]["name"] != "auto"
    if reads_back:
        assert yaml.load(to_yaml(tree), LOADER) == tree, "config.yaml must read back as it was"
    assert len(config.hash()) == 8


def test_every_yaml_has_its_module_and_every_module_its_yaml():
    for group, modules in (("method", METHODS), ("data", DATA)):
        assert sorted(path.stem for path in (layers.CONF / group).glob("*.yaml")) == modules
    assert {preset.split("/")[0] for preset in PRESETS} <= set(METHODS)
    assert len(METHODS) >= 5
    assert len(DATA) >= 4
    assert {conf("task", task)["data"]["name"] for task in TASKS} <= set(DATA)
    assert "cpu" in TRAINERS


# every method with every data set; variants with one of images and one of volumes, and with every trainer one of volumes
COMBINATIONS = [
    *(pytest.param(method, None, DATA, marks=pytest.mark.slow if k else ()) for k, method in enumerate(METHODS)),
    *((preset, None, ["chest14", "luna"]) for preset in PRESETS),
    *(
        pytest.param(method, trainer, ["chest14", "luna"] if method == METHODS[0] else ["luna"], marks=pytest.mark.slow)
        for method in (*METHODS, *PRESETS)
        for trainer in TRAINERS
    ),
]


@pytest.mark.parametrize(("method", "trainer", "data_sets"), COMBINATIONS)
def test_every_method_composes_with_every_data_set(method, trainer, data_sets):
    hashes = set()
    for data in data_sets:
        dims = dims_of(data)
        words = [f"method={method}", f"data={data}", *([f"trainer={trainer}"] if trainer else [])]
        config = compose_pretrain(words)
        groups = [("data", data), ("method", method), *([("trainer", trainer)] if trainer else [])]
        # writing takes longer than composing: each method and each data set is read back once
        check(config, groups, dims, reads_back=method == METHODS[0] or data == data_sets[0])
        assert (config.kind, config.name, config.data.name, config.labelled) == ("pretrain", method, data, False)
        assert config.folder().name == f"{method.replace('/', '-')}-{data}-{config.hash()}"
        assert issubclass(config.method_class, Method)
        assert config.spec.target == "none"
        hashes.add(config.hash())
    assert len(hashes) == len(data_sets)


@pytest.mark.parametrize(("task", "trainer"), product(TASKS, [None, *TRAINERS]))
def test_every_task_composes(task, trainer):
    config = compose_finetune([f"task={task}", *ASKED.get(task, []), *([f"trainer={trainer}"] if trainer else [])])
    data = conf("task", task)["data"]["name"]
    groups = [("data", data), ("task", task), *([("trainer", trainer)] if trainer else [])]
    check(config, groups, dims_of(data))
    assert config.labelled
    assert config.spec.target != "none"
    assert config.spec.class_names


def test_a_preset_lies_over_its_method_and_under_the_words(capsys):
    plain, preset = (compose_pretrain([f"method={m}", "data=luna"]) for m in ("pcrl", "pcrl/contraloss"))
    assert preset.method_class is plain.method_class
    assert plain.method.reconstruct
    assert not preset.method.reconstruct
    assert preset.tree()["method"]["name"] == "pcrl/contraloss"
    assert preset.hash() != plain.hash()
    assert compose_pretrain(["method=pcrl/crossmix_05", "data=luna", "method.alpha=2"]).method.alpha == 2
    # 3D pairs, which a preset of PCRL needs as PCRL does, reach the store
    assert compose_prepare(["method=pcrl/transatt", "data=luna", "data.root=x", "store=y"])[1].need.pair
    assert main(["pretrain", "method=pcrl/code", "data=chest14", "trainer=cpu", "--show"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["name"], shown["method"]["lambda_fold"], shown["trainer"]["batch_size"]) == ("pcrl/code", True, 32)


def test_presets_lie_over_each_other_in_the_order_of_their_names(capsys):
    """An ablation is one of the paper's form, of the official code's or of the default, as its name says."""
    whole, other = (compose_pretrain([f"method=pcrl/{form}/contraloss", "data=luna"]) for form in ("paper", "code"))
    paper, code = whole.method, other.method
    assert (paper.reconstruct, paper.loss, paper.push, paper.momentum) == (False, "info_nce", "branches", 0.99)
    assert (code.reconstruct, code.loss, code.push, code.momentum) == (False, "nce", "contrasts", 0.999)
    assert whole.stem() == "pcrl-paper-contraloss-luna"
    last = compose_pretrain(["method=pcrl/crossmix_1/crossmix_05", "data=luna"]).method
    assert last.alpha == 0.5
    assert main(["pretrain", "method=pcrl/paper/contraloss", "data=luna", "-h"]) == 0
    told = capsys.readouterr().out
    assert "conf/method/pcrl/paper.yaml" in told
    assert "conf/method/pcrl/contraloss.yaml" in told


def test_presets_are_listed_with_what_they_are(capsys):
    assert main(["list", "presets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == PRESETS
    assert all(len(line.split()) > 2 for line in lines), "a preset's yaml opens with a comment that says what it is"
    assert main(["list", "presets", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == PRESETS
    assert main(["list", "methods", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == METHODS


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (
            "pcrl/contralos",
            "method 'pcrl/contralos' is unknown: pcrl has no preset 'contralos'; did you mean 'contraloss'?",
        ),
        ("pcrl/", "method 'pcrl/' is unknown: pcrl has no preset ''; there are: code, contraloss"),
        ("pcrl/../moco", "method 'pcrl/../moco' is unknown: pcrl has no preset '..'; there are: code"),
        (
            "pcrl/paper/transat",
            "method 'pcrl/paper/transat' is unknown: pcrl has no preset 'transat'; did you mean 'transatt'?",
        ),
        ("pcrl/paper/paper", "method 'pcrl/paper/paper' names a preset twice; name each once"),
        ("simclr/v2", "method 'simclr/v2' is unknown: simclr has no preset 'v2'; it has none"),
        ("pcr/full", "method 'pcr' is unknown; did you mean 'pcrl'?"),
    ],
)
def test_an_unknown_preset_is_one_line_with_the_nearest_name(name, line):
    with pytest.raises(SslMedError) as error:
        compose_pretrain([f"method={name}", "data=luna"])
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


def test_words_win_over_every_yaml():
    config = compose_pretrain(
        [
            "method=pcrl",
            "data=luna",
            "trainer=cpu",
            "trainer.batch_size=3",
            "data.patch_size=[48,48,32]",
            "optim.lr=0.5",
        ]
    )
    assert (config.trainer.batch_size, config.data.patch_size, config.optim.lr) == (3, (48, 48, 32), 0.5)
    assert config.trainer.max_steps == conf("trainer", "cpu")["trainer"]["max_steps"]


def test_own_data_are_named_as_they_are_typed():
    scans = compose_pretrain(
        ["method=models_genesis", "data=volumes", "data.root=/x/scans #2", "data.exclude=[*mask*]"]
    )
    assert (scans.data.root, scans.data.exclude) == ("/x/scans #2", ("*mask*",))
    words = ["task=images", "data.root=1.10", "data.class_names=[no,yes]", r"data.subject_pattern=(person\d+)"]
    images = compose_finetune([*words, "tracking.project=on", "out=1e3"])
    assert (images.data.root, images.data.class_names) == ("1.10", ("no", "yes"))
    assert (images.data.subject_pattern, images.tracking.project) == (r"(person\d+)", "on")
    assert str(images.folder()) == "1e3"


def test_the_hash_names_what_can_change_the_result():
    base = ["method=moco", "data=luna"]
    plain = compose_pretrain(base).hash()
    for same in (
        "trainer.num_workers=3",
        "out=x",
        "resume=false",
        "tracking.wandb=online",
        "data.cache_gb=1",
        "trainer.log_every=1",
    ):
        assert compose_pretrain([*base, same]).hash() == plain, same
    for other in (
        "seed=1",
        "optim.lr=0.1",
        "method.temperature=0.3",
        "data.root=x",
        "data.split_seed=1",
        "trainer.batch_size=8",
    ):
        assert compose_pretrain([*base, other]).hash() != plain, other
    assert config_hash({"a": 1, "b": 2}) == config_hash({"b": 2, "a": 1})


def test_runs_move_with_the_pretraining_that_they_start_from():
    def named(init):
        return compose_finetune(["task=lits", f"init={init}"]).hash()

    assert named("/old/runs/moco-luna-0123abcd") == named("/new/place/moco-luna-0123abcd")
    assert named("/old/moco-luna-0123abcd") != named("/old/moco-luna-89abcdef")
    # a name that the user chose says nothing of what is inside
    assert named("/old/mine") != named("/new/mine")
    assert named("/old/moco-0123abcd/backbone.safetensors") != named("/new/moco-0123abcd/backbone.safetensors")


# ------------------------------------------------------------------------------------------- unknown keys


PRETRAIN = ("method", "data", "backbone", "optim", "trainer", "tracking")
FINETUNE = ("task", "data", "backbone", "optim", "trainer", "tracking", "labels", "transfer")


@pytest.mark.parametrize("section", PRETRAIN)
def test_unknown_words_of_pretraining(section):
    for method, data in {*zip(METHODS, cycle(DATA), strict=False), *zip(cycle(METHODS), DATA, strict=False)}:
        with pytest.raises(SslMedError, match=rf"^command line: key '{section}.nonsense' is unknown"):
            compose_pretrain([f"method={method}", f"data={data}", f"{section}.nonsense=1"])


@pytest.mark.parametrize("section", FINETUNE)
def test_unknown_words_of_finetuning(section):
    for task in TASKS:
        with pytest.raises(SslMedError, match=rf"^command line: key '{section}.nonsense' is unknown"):
            compose_finetune([f"task={task}", *ASKED.get(task, []), f"{section}.nonsense=1"])


def test_words_that_belong_to_the_other_command_or_to_none():
    for word in ("nonsense=1", "labels.fraction=0.5", "task.loss=ce", "probe.solver=lbfgs"):
        with pytest.raises(SslMedError, match=f"^command line: key '{word.split('.')[0].split('=')[0]}' is unknown"):
            compose_pretrain(["method=moco", "data=luna", word])
    with pytest.raises(SslMedError, match=r"^command line: key 'method' is unknown"):
        compose_finetune(["task=lits", "method.temperature=1"])
    with pytest.raises(SslMedError, match=r"^command line: 'data' is given twice"):
        compose_pretrain(["method=moco", "data=luna", "data=lits"])
    with pytest.raises(SslMedError, match=r"^trainer 'gpu' is unknown; (did you mean 'cpu'|there are)"):
        compose_pretrain(["method=moco", "data=luna", "trainer=gpu"])


GROUPS = {"method": [*METHODS, *PRESETS], "data": DATA, "task": TASKS, "trainer": TRAINERS}


@pytest.mark.slow
@pytest.mark.parametrize(("group", "name"), [(group, name) for group, found in GROUPS.items() for name in found])
@pytest.mark.parametrize("where", ["section", "top", "when"])
def test_an_unknown_key_of_a_yaml_names_the_yaml(group, name, where, tmp_path, monkeypatch):
    shutil.copytree(layers.CONF, tmp_path / "conf")
    monkeypatch.setattr(layers, "CONF", tmp_path / "conf")
    data = name if group == "data" else "luna" if group != "task" else conf("task", name)["data"]["name"]
    section = {"method": "method", "data": "data", "task": "task", "trainer": "trainer"}[group]
    path = tmp_path / "conf" / group / f"{name}.yaml"
    tree = yaml.safe_load(path.read_text()) or {}
    spelled = {"section": f"{section}.nonsense", "top": "nonsense", "when": f"{section}.nonsense"}[where]
    addition = {"nonsense": 1} if where == "top" else {section: {"nonsense": 1}}
    place = tree.setdefault(f"when_{dims_of(data)}d", {}) if where == "when" else tree
    for key, value in addition.items():
        place[key] = {**(place.get(key) or {}), **value} if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(tree))
    if group == "task":
        words = [f"task={name}", *ASKED.get(name, [])]
    else:
        words = [f"method={name if group == 'method' else 'moco'}", f"data={data}"]
        words += [f"trainer={name}"] if group == "trainer" else []
    with pytest.raises(SslMedError, match=rf"^conf/{group}/{name}.yaml: key '{spelled}' is unknown"):
        (compose_finetune if group == "task" else compose_pretrain)(words)


# ------------------------------------------------------------------------------------------- probes


PROTOCOLS = ("linear", "knn", "fewshot")
# tasks of issue and papers: name -> target and what the yaml must say of the data
WANTED = {
    "luna": ("class", {}), "candidates": ("class", {"patch_size": (64, 64, 64)}), "lidc": ("mask", {}),
    "lits": ("mask", {"intensity_low": -200, "target_regions": "liver"}),
    "lits_liver": ("mask", {"target_regions": "liver_only"}),
    "lits_mg": ("mask", {"intensity_low": -1000, "intensity_high": 1000, "split": "mg", "target_regions": "liver"}),
    "lits_pcrl": ("mask", {"intensity_low": -200, "intensity_high": 200, "patch_size": (256, 256, 64)}),
    "brats": ("mask", {"regions": ("WT", "TC", "ET")}), "brats_wt": ("mask", {"regions": ("WT",), "modalities": ("flair",)}),
    "brats_pcrl": ("mask", {"patch_size": (112, 128, 112)}), "msd": ("mask", {}), "hippocampus": ("mask", {}),
    "chest14": ("multilabel", {}), "chest14_official": ("multilabel", {"split": "official"}), "chexpert": ("multilabel", {}),
    "shenzhen": ("class", {}), "montgomery": ("class", {}), "bach": ("class", {}), "eyepacs": ("class", {}),
    "ichallenge_amd": ("class", {}), "ichallenge_pm": ("class", {}), "medmnist": ("class", {}), "nodule2d": ("class", {}),
    "busi": ("class", {}), "busi_lesions": ("mask", {"target": "lesion"}), "fetal_planes": ("class", {}),
    "chestx_seven": ("class", {"split": "random"}), "chexpert_effusion": ("class", {"against_rest": "Pleural Effusion"}),
}  # fmt: skip


@pytest.mark.parametrize("task", sorted(WANTED))
def test_the_tasks_of_the_papers_are_there(task):
    assert task in TASKS
    target, said = WANTED[task]
    config = compose_finetune([f"task={task}"])
    assert config.spec.target == target
    assert {key: getattr(config.data, key) for key in said} == said


@pytest.mark.parametrize(("task", "trainer"), product(TASKS, [None, *TRAINERS]))
def test_every_task_can_be_probed(task, trainer):
    words = [f"task={task}", *ASKED.get(task, []), *([f"trainer={trainer}"] if trainer else [])]
    tuned = compose_finetune(words)
    hashes = set()
    for protocol in PROTOCOLS:
        if tuned.spec.target == "mask" and protocol != "linear":
            with pytest.raises(SslMedError, match=f"protocol={protocol} needs class labels, task '{task}' has masks"):
                compose_probe([*words, f"protocol={protocol}"])
            continue
        config = compose_probe([*words, f"protocol={protocol}"])
        tree = config.tree()
        assert config.spec == tuned.spec
        assert config.backbone == tuned.backbone
        assert (tree["kind"], tree["protocol"], tree["task"]["name"]) == ("probe", protocol, task)
        assert "optim" not in tree
        assert set(tree["trainer"]) == set(keys_of(LoadingConfig))
        assert yaml.safe_load(to_yaml(tree)) == tree
        assert compose_probe([*words, f"protocol={protocol}", "probe.cache=x"]).hash() == config.hash()
        assert protocol in config.folder().name
        hashes.add(config.hash())
    assert len(hashes) == (1 if tuned.spec.target == "mask" else 3)


@pytest.mark.parametrize("data", DATA)
def test_every_data_set_can_be_asked_for_pretexts(data):
    for protocol in ("pretext_rotation", "pretext_position"):
        config = compose_probe([f"data={data}", f"protocol={protocol}"])
        assert not config.labelled
        assert config.spec.target == "none"
        assert "labels" not in config.tree()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["task=luna"], "protocol=NAME is missing; there are: dense, fewshot, knn, linear"),
        (["task=luna", "protocol=linaer"], "protocol 'linaer' is unknown; did you mean 'linear'?"),
        (["task=luna", "protocol=knn", "protocol=linear"], "command line: 'protocol' is given twice"),
        (["protocol=linear"], "task=NAME is missing"),
        (["protocol=pretext_rotation"], "data=NAME is missing"),
        (["task=luna", "protocol=knn", "optim.lr=1"], "command line: key 'optim' is unknown"),
        (["task=luna", "protocol=knn", "trainer.max_steps=1"], "command line: key 'trainer.max_steps' is unknown"),
        (["task=luna", "protocol=knn", "probe.shots=5"], "command line: key 'probe.shots' is unknown"),
        (["task=luna", "protocol=knn", "transfer.layer_decay=.5"], "command line: key 'transfer.layer_decay' is unknown"),
        (["task=luna", "protocol=knn", "labels.match=steps"], "command line: key 'labels.match' is unknown"),
        (["task=luna", "protocol=knn", "labels.shots=2", "labels.fraction=.5"], "command line: labels.fraction and labels.sho"),
        (["task=luna", "protocol=linear", "probe.strength_min=0"], "command line: 'probe.strength_min' is 0; it must be"),
    ],
)  # fmt: skip
def test_a_wrong_probe_is_one_line(words, line):
    with pytest.raises(SslMedError) as error:
        compose_probe(words)
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


def test_precision_auto_is_what_runs_and_names_the_run(monkeypatch, tmp_path):
    base = ["method=simclr", "data=lits", f"data.root={tmp_path}", "trainer=cpu"]
    single, half = (compose_pretrain([*base, f"trainer.precision={value}"]) for value in ("32", "bf16-mixed"))
    found = {}
    for switch, explicit in (("0", single), ("1", half)):
        monkeypatch.setenv("SSL_MED_BF16", switch)
        found[switch] = compose_pretrain(base)
        assert (
            found[switch].trainer.precision
            == explicit.trainer.precision
            == found[switch].tree()["trainer"]["precision"]
        )
        assert found[switch].hash() == explicit.hash() == explicit.hash(planned=True)
    assert found["0"].hash(planned=True) == found["1"].hash(planned=True) != half.hash()
    assert compose_probe(["task=chest14", "protocol=knn", "trainer=cpu"]).trainer.precision == "bf16-mixed"
    # a run that another kind of machine began goes on as it began
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(to_yaml(single.tree()))
    assert compose_pretrain([*base, f"out={tmp_path / 'run'}"]).hash() == single.hash()


def test_threads_do_not_name_a_run():
    base = ["method=simclr", "data=lits"]
    assert compose_pretrain([*base, "trainer.threads=2"]).hash() == compose_pretrain(base).hash()
    probe = ["task=chest14", "protocol=knn"]
    assert compose_probe([*probe, "trainer.threads=2"]).hash() == compose_probe(probe).hash()
    with pytest.raises(SslMedError, match=r"command line: 'trainer\.threads' is -1; it must be at least 0"):
        compose_pretrain([*base, "trainer.threads=-1"])


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (
            "channels=[8,16]",
            "key 'backbone.channels' is unknown to backbone.name=resnet18; did you mean 'decoder_channels'?",
        ),
        (
            "fast_up=true",
            "key 'backbone.fast_up' is unknown to backbone.name=resnet18; there are: decoder_channels, dilated",
        ),
        ("name=resnet8", "backbone.name 'resnet8' is unknown; did you mean 'resnet18'"),
    ],
)
def test_a_setting_of_another_backbone_is_refused(key, message):
    with pytest.raises(SslMedError, match=re.escape(message)):
        compose_pretrain(["method=simclr", "data=chest14", f"backbone.{key}"])


def test_a_run_bears_the_name_of_the_data_that_it_reads():
    run = compose_finetune(["task=candidates", "data=lidc"])
    assert (run.data_class, run.data.name, run.task.name) == (data_class_of("lidc"), "lidc", "candidates")
    for key in ("data", "task"):
        with pytest.raises(SslMedError, match=f"{key}.name cannot be set; {key}=NAME chooses it"):
            compose_finetune(["task=candidates", f"{key}.name=mine"])


def test_coloured_images_have_the_colour_changes_of_the_papers(shared_phantom):
    def view(method, data, *words):
        root = f"data.root={shared_phantom(data)}"
        return compose_pretrain([f"method={method}", f"data={data}", root, "trainer=cpu", *words]).method.view

    found = view("moco", "bach")
    assert (found.saturation, found.hue, found.greyscale) == (0.4, 0.1, 0.2)
    assert view("simclr", "bach").hue == 0.2
    assert view("moco", "bach", "method.view.hue=0").hue == 0
    grey = view("moco", "chest14")
    assert (grey.saturation, grey.hue, grey.greyscale, grey.equalize) == (0, 0, 0, 0)
    with pytest.raises(SslMedError, match=r"method.view.hue=0.1 has no effect, since the images are grey"):
        view("moco", "chest14", "method.view.hue=0.1")
