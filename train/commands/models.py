"""``scotoma models``: the architectures, their sizes and mask sites."""

from __future__ import annotations

from rich.table import Table

from ...defective import mask_sites, model_names
from ...defective.errors import UserError, counted
from ..screen import make_console, show
from ..settings import make_parser
from .options import add_variant_options, network_from


def main(argv: list[str]) -> int:
    parser = make_parser("models", "List the architectures with parameter counts and mask sites.")
    add_variant_options(parser.add_argument_group("variant"))
    parser.add_argument("--all-sites", action="store_true", help="also list every site and shape")
    arguments = parser.parse_args(argv)

    table = Table(
        title=f"{arguments.defects}, {arguments.in_channels}x{arguments.image_size}x"
        f"{arguments.image_size}, {counted(arguments.num_classes, 'class')}"
    )
    for column in ("architecture", "parameters", "sites", "neurons masked over", "kept"):
        table.add_column(column, justify="left" if column == "architecture" else "right")
    listings, failures = [], []
    for name in model_names():
        try:
            model = network_from(arguments, name)
        except UserError as error:
            failures.append(error)
            table.add_row(name, "-", "-", "not available", "-")
            continue
        masks = mask_sites(model)
        neurons = sum(mask.numel() for mask in masks.values())
        kept = sum(int(mask.sum()) for mask in masks.values())
        table.add_row(
            name,
            f"{sum(p.numel() for p in model.parameters()):,}",
            str(len(masks)),
            f"{neurons:,}",
            f"{kept / neurons:.2%}" if neurons else "-",
        )
        listings.append((name, masks))
    if not listings:
        raise failures[0]
    console = make_console()
    show(console, table)
    if arguments.all_sites:
        for name, masks in listings:
            console.print(f"\n{name}")
            for site, mask in masks.items():
                shape = "x".join(map(str, mask.shape))
                console.print(f"  {site:24} {shape:>12}  keeps {int(mask.sum()):,}")
    return 0
