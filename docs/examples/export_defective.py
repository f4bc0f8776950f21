"""A defective network as a file for torch.export and for ONNX, both run and compared.

    python docs/examples/export_defective.py torchvision:resnet18 --size 64
    python docs/examples/export_defective.py runs/mine

The network is new, or that of a checkpoint or run folder. It is exported on the CPU, where the
operator is plain ATen operators: on a GPU the graph would have scotoma's own. Masks are constants
of both files and no inputs, so that nobody who runs them needs scotoma; the batch size stays free.
Needs the extra ``export``: pip install 'scotoma[export]'
"""

import argparse
from pathlib import Path

import onnx
import onnxruntime
import torch
from scotoma.defective import create_model, load_model, mask_sites

parser = argparse.ArgumentParser()
parser.add_argument("model", nargs="?", default="resnet18", help="name, checkpoint or run folder")
parser.add_argument("--defects", default="0.3-Bottom", help="of a new network")
parser.add_argument("--size", type=int, default=32, help="side of a new network's images")
parser.add_argument("--out", type=Path, default=Path("exported"), help="folder of the files")
options = parser.parse_args()

torch.manual_seed(0)
if Path(options.model).exists():
    model = load_model(options.model, "cpu")
else:
    model = create_model(options.model, options.defects, image_size=options.size, mask_seed=0)
model.eval()

size = (model.spec.in_channels, model.spec.image_size, model.spec.image_size)
images = torch.rand(5, *size)  # pixels in [0,1]
with torch.no_grad():
    logits = model(images)


def compare(what: str, found: torch.Tensor) -> None:
    difference = (found - logits).abs().max() / logits.abs().max()
    print(f"{what}: logits differ by {difference:.1e} of the largest")


# Exported for two images, run on five.
free = ({0: torch.export.Dim("batch")},)
exported = torch.export.export(model, (images[:2],), dynamic_shapes=free)
options.out.mkdir(parents=True, exist_ok=True)
torch.export.save(exported, options.out / "model.pt2")
compare("torch.export", torch.export.load(options.out / "model.pt2").module()(images).detach())

# Constant folding makes masks float32, 4 bytes a neuron; optimize=False keeps them bool.
path = options.out / "model.onnx"
names = {"input_names": ["pixels"], "output_names": ["logits"], "dynamic_shapes": free}
torch.onnx.export(exported, f=path, **names, dynamo=True, external_data=False, verbose=False)
session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
(found,) = session.run(None, {"pixels": images.numpy()})
compare("onnxruntime", torch.from_numpy(found))

graph = onnx.load(path).graph
constants = [torch.tensor(onnx.numpy_helper.to_array(value)) for value in graph.initializer]
masks = mask_sites(model)
kept = sum(any(torch.equal(value, mask.float()) for value in constants) for mask in masks.values())
inputs = ", ".join(f"{value.name} {value.shape}" for value in session.get_inputs())
print(f"{path}: takes {inputs}; {kept} of {len(masks)} masks are constants of it")
