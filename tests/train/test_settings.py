"""Settings: which place wins, and what is refused."""

import re
from dataclasses import dataclass

import pytest
import torch
import yaml
from scotoma.defective import UserError
from scotoma.train import precision
from scotoma.train.config import TrainConfig, setting
from scotoma.train.settings import (
    add_settings,
    build_parser,
    load_resolved,
    make_parser,
    parse,
    read_recipe,
    recipe_names,
)
from scotoma.train.setup import resolve


def settings(*argv):
    return parse(list(argv))[0]


def test_command_line_beats_yaml_beats_recipe_beats_defaults(tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("recipe: paper-mnist\nepochs: 7\nbatch-size: 9\nwarmup: 0.1\n")
    second.write_text("epochs: 8\n")
    config = settings("--config", str(first), "--config", str(second), "--batch-size", "11")
    assert (config.batch_size, config.epochs, config.warmup) == (11, 8, 0.1)
    assert config.milestones == [20, 40]  # of the recipe
    assert config.momentum == 0.9  # of the defaults


@pytest.mark.parametrize(
    ("dataset", "recipe"),
    [("sample", "quick"), ("cifar10", "fast-cifar10"), ("mnist", "paper-mnist")],
)
def test_each_data_set_has_a_recipe_of_its_own(dataset, recipe):
    assert settings("--dataset", dataset).recipe == recipe


@pytest.mark.parametrize(
    ("argv", "lr"),
    [
        ("", 0.4),
        ("--batch-size 64", 0.05),
        ("--batch-size 1024", 0.4),
        ("--batch-size 64 --lr 0.3", 0.3),
        ("--batch-size 64 --recipe fast-cifar10", 0.4),
        ("--batch-size 64 --recipe paper-cifar10", 0.1),
    ],
)
def test_the_learning_rate_of_an_unnamed_recipe_shrinks_with_the_batch(argv, lr):
    assert settings("--dataset", "photos", *argv.split()).lr == pytest.approx(lr)


def test_saved_settings_come_back(tmp_path):
    """As --resume reads them, and as a --config file."""
    file = tmp_path / "config.yaml"
    for argv in (
        "--dataset photos --batch-size 64",
        "--recipe paper-mnist --ema 0.9 --no-tf32 --lr 1e-5",
    ):
        config = settings(*argv.split())
        config.save(file)
        assert load_resolved(file) == config == settings("--config", str(file))
    assert yaml.safe_load(file.read_text())["lr"] == 1e-5
    file.write_text("batch-size: 64\nlr: 0.3\n")
    assert settings("--dataset", "photos", "--config", str(file)).lr == 0.3


def test_some_options_have_three_answers(tmp_path):
    for words, answer in (
        ("", None),
        ("--cuda-graph --channels-last", True),
        ("--no-cuda-graph --no-channels-last", False),
        ("--cuda-graph true --channels-last=true", True),
        ("--cuda-graph false --channels-last no", False),
    ):
        config = settings(*words.split())
        assert config.cuda_graph is answer and config.channels_last is answer
        config.save(tmp_path / "config.yaml")
        assert load_resolved(tmp_path / "config.yaml") == config


def test_paper_recipes_state_the_papers_numbers():
    """Appendix D of the paper."""
    cifar, mnist = read_recipe("paper-cifar10"), read_recipe("paper-mnist")
    assert (cifar["epochs"], cifar["milestones"]) == (350, [150, 250])
    assert (mnist["epochs"], mnist["milestones"]) == (50, [20, 40])
    for recipe in (cifar, mnist):
        assert recipe["lr"] == 0.1
        assert recipe["batch_size"] == 128
        assert recipe["momentum"] == 0.9
        assert recipe["weight_decay"] == 5e-4
        assert not recipe["nesterov"]
    assert (cifar["augment"], mnist["augment"]) == ("crop-flip", "flip")


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_accepted(name):
    assert settings("--recipe", name).recipe == name


def test_help_explains_every_setting():
    text = " ".join(build_parser().format_help().split())
    for name in TrainConfig.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in text
    assert "the paper's notation" in text


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("--epoch 3", ["'--epoch'", "'--epochs'"]),
        ("--bach-size 3", ["'--bach-size'", "'--batch-size'"]),
        ("--recipe paper-cifar", ["'paper-cifar'", "'paper-cifar10'"]),
        ("--epochs many", ["--epochs is 'many'; expected a whole number"]),
        ("--seed abc", ["--seed is 'abc'; expected a whole number"]),
        ("--width 1.5", ["--width is '1.5'; expected a whole number"]),
        ("--clip-norm nan", ["--clip-norm is 'nan'; expected a finite number"]),
        ("--schedule steps", ["--schedule is 'steps'; expected one of step, one-cycle"]),
        ("--augment flop", ["--augment is 'flop'; expected one of none", "'flip'"]),
        ("--channels-last maybe", ["--channels-last is 'maybe'; expected yes or no"]),
        ("--epochs 0", ["--epochs is 0; expected at least 1"]),
        ("--batch-size 1", ["--batch-size is 1; expected at least 2"]),
        ("--lr -1", ["--lr is -1.0; expected a positive number"]),
        ("--lr 1e308", ["--lr is 1e+308; expected a finite number of float32"]),
        ("--lr 1e400", ["--lr is inf; expected a finite number of float32"]),
        ("--weight-decay 1e39", ["--weight-decay is 1e+39", "float32"]),
        ("--label-smoothing 1", ["--label-smoothing is 1.0; expected 0 <= eps < 1"]),
        ("--milestones [-1]", ["--milestones is [-1]", "1 or more"]),
        ("--milestones [3,0]", ["--milestones is [3, 0]", "1 or more"]),
        (f"--seed {2**64}", [f"--seed is {2**64}", "less than 2**64"]),
        ("--seed -1", ["--seed is -1", "0 or more"]),
        ("--adversarial-eps 8", ["--adversarial-eps is 8.0", "pixels in [0,1]"]),
        ("--adversarial-steps 0", ["--adversarial-steps is 0; expected 1 or more"]),
        ("--thermometer 1", ["--thermometer is 1", "2 levels"]),
        ("--thermometer -2", ["--thermometer is -2", "2 levels"]),
        ("--logit-pairing -0.5", ["--logit-pairing is -0.5", "0 or more"]),
        ("--nesterov --momentum 0", ["--nesterov", "momentum above 0"]),
        ("--config /no/such.yaml", ["/no/such.yaml", "no such file"]),
        ("--resume runs/x --epochs 3", ["--resume", "--epochs"]),
        ("stray", ["'stray'"]),
    ],
)
def test_bad_arguments_are_refused_in_one_line(argv, words):
    with pytest.raises(UserError) as refused:
        parse(argv.split())
    message = str(refused.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epoch: 3", ["unknown key 'epoch'", "'epochs'"]),
        ("epochs: three", ["epochs", "three"]),
        ("lr: null", ["--lr is None"]),
        ("epochs: null", ["--epochs is None"]),
        ("milestones: null", ["--milestones is None"]),
        ("schedule: null", ["--schedule is None"]),
        ("- 1\n- 2", ["key: value", "list"]),
        ("a: [1", ["not a YAML file"]),
        ("!!python/object/apply:os.system ['true']", ["not a YAML file"]),
    ],
)
def test_bad_config_files_are_refused(tmp_path, text, words):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as refused:
        parse(["--config", str(file)])
    for word in words:
        assert word in str(refused.value)


def test_a_backend_that_cannot_run_is_refused_before_any_work(monkeypatch):
    monkeypatch.setattr("scotoma.train.setup.device_refusal", lambda device: f"no {device} here")
    with pytest.raises(UserError, match=r"--backend triton: no cpu here; take --backend auto"):
        resolve(settings("--backend", "triton"), torch.device("cpu"))
    assert resolve(settings("--backend", "eager"), torch.device("cpu")).backend == "eager"


@pytest.mark.parametrize("amx", [False, True])
def test_what_a_cpu_gets(monkeypatch, amx):
    """What is asked for always wins; what is slow is warned of."""
    device = torch.device("cpu")
    monkeypatch.setattr(precision, "has_amx", lambda kind="_tile": amx and kind == "_tile")

    def resolved(**changes):
        config = resolve(TrainConfig(name="x", **changes), device)
        return config.precision, config.channels_last

    assert resolved() == ("float32", False)
    assert resolved(precision="float16", channels_last=True) == ("float16", True)
    assert precision.slow_precision("float32", device) is None
    assert "--precision float32" in precision.slow_precision("float16", device)
    assert (precision.slow_precision("bfloat16", device) is None) == amx


@pytest.mark.parametrize(
    ("average", "running", "threads", "warned"),
    [
        ("6.10", 7, 2, True),
        ("6.10", 1, 2, False),  # of others that have just ended
        ("0.10", 7, 2, False),  # a moment's
        ("6.10", 7, 1, False),
        ("2.00", 3, 2, True),
    ],
)
def test_a_busy_machine_is_noticed(monkeypatch, average, running, threads, warned):
    text = f"{average} 1.00 1.00 {running}/100 4242\n"
    monkeypatch.setattr(precision.Path, "read_text", lambda path: text)
    monkeypatch.setattr(precision.os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    words = precision.busy(torch.device("cpu"))
    assert (words is not None) == warned
    assert words is None or ("OMP_NUM_THREADS=1" in words and "the 2 cores" in words)


@dataclass
class Asked:
    """Options of a verb that does not exist."""

    runs: list[str] = setting([], None, "networks", "RUN", nargs="*", positional=True)
    against: list[str] = setting([], "what", "sets", "SET", nargs="+", action="extend")
    pixels: str = setting("float", "what", "levels", choices=("float", "uint8"))
    samples: int = setting(1000, "what", "images; 95 % of them")
    width: int | None = setting(None, "what", "base width")
    graph: bool = setting(True, "what", "at once")


def asked(*argv):
    parser = make_parser("try", "Tries.")
    add_settings(parser, Asked)
    return Asked(**parser.parse_args(list(argv)).as_dict())


def test_fields_of_a_dataclass_are_options_and_arguments_stand_anywhere():
    assert asked() == Asked()
    words = ["a", "--samples", "3", "b", "--no-graph", "c", "--against", "x", "y", "--against", "z"]
    given = asked(*words)
    assert given.runs == ["a", "b", "c"] and given.against == ["x", "y", "z"]
    assert (given.samples, given.graph, given.width, given.pixels) == (3, False, None, "float")
    assert asked("--width", "-1", "--pixels", "uint8").width == -1  # a number, not an option


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--samples", "many"], "--samples is 'many'; expected a whole number"),
        (["--sample", "3"], "unknown option '--sample'. Did you mean '--samples'?"),
        (["--pixels", "unit8"], "--pixels is 'unit8'; expected one of float, uint8. Did you mean"),
        (["--width", "2.5"], "--width is '2.5'; expected a whole number"),
        (["--samples"], "argument --samples: expected one argument"),
    ],
)
def test_options_of_every_verb_are_refused_alike(words, message):
    with pytest.raises(UserError, match=re.escape(message)):
        asked(*words)


def test_the_help_says_defaults_and_no_types(capsys):
    with pytest.raises(SystemExit):
        asked("--help")
    printed = " ".join(capsys.readouterr().out.split())
    assert "images; 95 % of them (default: 1000)" in printed and "null" not in printed
    assert "type:" not in printed and "%%" not in printed
