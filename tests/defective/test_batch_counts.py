"""``num_batches_tracked``: the count is torch's, and costs one operator a pass."""

import copy
from collections import Counter

import pytest
import torch
from scotoma.defective import BNMaskReLU, create_model, load_model, model_names, save_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode


def counts(model):
    return {int(v) for name, v in model.state_dict().items() if name.endswith("batches_tracked")}


def images(batch=4):
    return torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "options", [{}, {"momentum": None}, {"track_running_stats": False}, {"affine": False}], ids=str
)
def test_a_layer_counts_as_torchs_does(options):
    ours, theirs = BNMaskReLU(3, **options), nn.BatchNorm2d(3, **options)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for training in (True, True, False, True, False):
        x = torch.randn(5, 3, 2, 2)
        ours.train(training)(x)
        theirs.train(training)(x)
        found = ours.state_dict()
        for name, value in theirs.state_dict().items():
            assert found[name].dtype == value.dtype and found[name].shape == value.shape
            torch.testing.assert_close(found[name], value)


def test_a_branch_is_counted_with_the_layer_that_runs_it():
    main, branch = BNMaskReLU(3), BNMaskReLU(3)
    x = torch.randn(5, 3, 2, 2)
    main(x, projection=(x, branch))
    main.eval()(x, projection=(x, branch.eval()))
    assert int(main.num_batches_tracked) == int(branch.num_batches_tracked) == 1


class Operators(TorchDispatchMode):
    """Counts in-place additions to whole numbers."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        first = args[0][0] if args and isinstance(args[0], list) and args[0] else args[:1]
        first = first[0] if isinstance(first, tuple) and first else first
        if isinstance(first, torch.Tensor) and first.dtype == torch.int64:
            self.calls[function._overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", model_names())
def test_a_network_counts_for_all_its_layers_at_once(small_model, name):
    model = small_model(name).train()
    for number in range(1, 4):
        with Operators() as operators:
            model(images())
        assert counts(model) == {number}
        assert operators.calls == {"_foreach_add_": 1}
    with Operators() as operators, torch.no_grad():
        model.eval()(images())
    assert counts(model) == {3} and not operators.calls


def test_each_copy_counts_for_itself(small_model):
    """Of a network, and of a part that runs alone; a pass that ended in an error is over."""
    model = small_model("resnet18").train()
    twin, block = copy.deepcopy(model), copy.deepcopy(model.block1)
    twin(images())
    block(torch.randn(2, 4, 32, 32))
    assert counts(twin) == counts(block) == {1} and counts(model) == {0}
    model.block1(torch.randn(2, 4, 32, 32))
    assert counts(model.block1) == {1} and counts(model) == {0, 1}
    model.block4.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(images())
    model.block1(torch.randn(2, 4, 32, 32))
    assert counts(model.block1) == {3}


def test_frozen_layers_are_not_counted(small_model):
    model = small_model("resnet18").train()
    model.stem.bn.eval()
    model(images())
    assert int(model.stem.bn.num_batches_tracked) == 0
    assert int(model.block1[0].bn1.num_batches_tracked) == 1


def test_compiled_networks_count(small_model):
    model = small_model("resnet18").train()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for number in range(1, 4):
        compiled(images())
        assert counts(model) == {number}
    with torch.no_grad():
        compiled.eval()(images())
    assert counts(model) == {3}


def test_states_from_before_there_was_a_count(small_model, tmp_path):
    """Zero in earlier versions; missing where somebody took it away."""
    model = small_model("resnet18").train()
    old = model.state_dict()
    save_model(model, tmp_path / "old.safetensors")
    loaded = load_model(tmp_path / "old.safetensors").train()
    loaded(images())
    assert counts(loaded) == {1}
    bare = {name: v for name, v in old.items() if not name.endswith("batches_tracked")}
    model.load_state_dict(bare)
    model(images())
    assert counts(model) == {1}


def test_a_skeleton_has_nothing_to_count():
    with torch.device("meta"):
        model = create_model("resnet18", width=4).train()
        model(torch.empty(2, 3, 32, 32))
    assert model.stem.bn.num_batches_tracked.is_meta
