"""``scotoma info CHECKPOINT``: what is in a checkpoint."""

from __future__ import annotations

from rich.table import Table

from ...defective import load_model, mask_sites
from ...defective.serialization import checkpoint_path, read_details
from ..screen import make_console, show
from ..settings import make_parser


def main(argv: list[str]) -> int:
    parser = make_parser("info", "Describe a checkpoint: its network, masks and results.")
    parser.add_argument("checkpoint", help="a .safetensors file, or a run folder")
    path = checkpoint_path(parser.parse_args(argv).checkpoint)
    model, (_, details) = load_model(path), read_details(path)
    spec = model.spec

    console = make_console()
    facts = Table.grid(padding=(0, 2))
    facts.add_row("file", str(path))
    facts.add_row("network", f"{spec.name}, {spec.defects}, width {spec.width}")
    facts.add_row("parameters", f"{sum(p.numel() for p in model.parameters()):,}")
    size = f"{spec.in_channels}x{spec.image_size}x{spec.image_size}"
    facts.add_row(
        "input", f"{size}, pixels in [0,1]; normalised by mean {spec.mean} std {spec.std}"
    )
    facts.add_row("output", f"{spec.num_classes} logits")
    exact = "exact count" if spec.exact_masks else "Bernoulli"
    seed = "not those of a seed" if spec.mask_seed is None else f"seed {spec.mask_seed}"
    facts.add_row("masks", f"{seed}, {exact}, sites of the {spec.sites}")
    if spec.regularizer != "none":
        facts.add_row("regulariser", spec.regularizer)
    for key, value in details.items():
        if isinstance(value, list):
            value = ", ".join(map(str, value))
        elif isinstance(value, float):
            value = f"{value:.2%}" if key.endswith("acc1") else f"{value:.4g}"
        facts.add_row({"seed": "training seed"}.get(key, key.replace("_", " ")), str(value))
    console.print(facts)

    masks = mask_sites(model)
    if masks:
        sites = Table(title="mask sites")
        for column in ("site", "shape", "kept", "share"):
            sites.add_column(column, justify="left" if column == "site" else "right")
        for name, mask in masks.items():
            kept = int(mask.sum())
            shape = "x".join(map(str, mask.shape))
            sites.add_row(name, shape, f"{kept:,}", f"{kept / mask.numel():.2%}")
        show(console, sites)
    return 0
