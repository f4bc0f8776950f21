"""What torch sees of the operators on a GPU, without one: export of fake CUDA tensors.

Nothing is computed; the choice of the backend, the registration and the fakes are what runs.
"""

import pytest
import torch
from scotoma.kernels import (
    apply_mask,
    backends,
    bn_mask_add_relu,
    conv_bn_mask_add_relu,
    measure_convolutions,
)
from torch._subclasses.fake_tensor import FakeTensorMode


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.bn = torch.nn.BatchNorm2d(16)
        self.register_buffer("mask", torch.zeros(16, 4, 4, dtype=torch.bool))

    def forward(self, x):
        vectors = self.bn.weight, self.bn.bias, self.bn.running_mean, self.bn.running_var
        out = bn_mask_add_relu(x, *vectors, mask=self.mask, residual=x, training=self.training)
        return apply_mask(out, self.mask)


@pytest.fixture
def capability(monkeypatch):
    """A GPU of the given compute capability."""
    monkeypatch.setattr(backends, "_default", None)

    def pretend(*version):
        backends._device_refusal.cache_clear()
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: version)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "a GPU")

    yield pretend
    backends._device_refusal.cache_clear()


def exported_operators(training, strict):
    with FakeTensorMode(), torch.device("cuda"):
        layer = Layer().train(training)
        x = torch.empty(2, 16, 4, 4).to(memory_format=torch.channels_last)
        program = torch.export.export(layer, (x,), strict=strict)
    out = next(n for n in program.graph.nodes if n.op == "output").args[0][-1]
    names = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    return names, out.meta["val"]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_exported_as_one_node(capability, training, strict):
    capability(9, 0)
    names, out = exported_operators(training, strict)
    assert names.count("scotoma.bn_mask_add_relu.default") == 1
    assert names.count("scotoma.apply_mask.default") == 1
    assert not any("batch_norm" in name for name in names)
    assert out.device.type == "cuda" and out.is_contiguous(memory_format=torch.channels_last)


def test_an_older_gpu_gets_the_eager_definition(capability):
    capability(7, 5)
    names, _ = exported_operators(True, False)
    assert not any("scotoma" in name for name in names)
    assert any("batch_norm" in name for name in names)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there to be asked")
@pytest.mark.parametrize("training", [True, False])
def test_fake_tensors_ask_no_driver(training):
    """Shapes and memory of a run on a GPU are found out on machines that have none."""
    backends._device_refusal.cache_clear()
    with FakeTensorMode(), torch.device("cuda"):
        layer, x = Layer().train(training), torch.empty(2, 16, 4, 4, requires_grad=True)
        vectors = [torch.empty(16) for _ in range(4)]
        kernel = torch.empty(16, 16, 3, 3)
        with measure_convolutions():
            out = conv_bn_mask_add_relu(x, kernel, None, *vectors, padding=1, training=training)
        out = layer(out)
    assert out.device.type == "cuda" and out.shape == x.shape
