"""What the page of results says: targets, losses, changes, gaps."""

import pytest
from report_rows import (
    NEW,
    OLD,
    cells,
    convergence,
    layer,
    loaded,
    one_of_each,
    operator,
    step,
    text_of,
)
from scotoma.bench.report import compare, page
from scotoma.bench.report.document import Bullets, Code
from scotoma.bench.report.sections import changes, gaps, losses, targets


def verdicts(rows):
    return {
        (t.arch, t.defects, t.rival): targets.judge(t, rows)[1:]
        for t in targets.targets()
        if t.arch in ("resnet18", "vgg19")
    }


def test_runs_are_not_compared():
    """Two commands, two states of the machine: a later eager is not what an earlier fused beat."""
    steps = [step("fused", 100.0), step("eager", 50.0, time=NEW)]
    assert losses.step_losses(steps) == (0, [])
    assert losses.step_losses([steps[0], steps[1] | {"time": OLD}])[0] == 1
    layers = [layer("ours", 9.0), layer("eager", 5.0, time=NEW), layer("compile", 8.0)]
    compared, lines = losses.layer_losses(layers)
    assert compared and len(lines) == 1 and "slower than compile" in lines[0]
    # Another number format is another run, and stays.
    other = [
        layer("ours", 4.0, dtype="float16", time=NEW),
        layer("eager-fp16", 2.0, dtype="float16"),
    ]
    groups = compare.layer_groups([*layers, *other])
    assert {d: [r["contestant"] for r in rows] for d, rows in groups.items()} == {
        "bfloat16": ["ours", "compile", "eager-fp16"],
        "float16": ["ours"],
    }


def test_targets():
    rows = [
        *(step("eager", 160.0), step("max-autotune", 109.0)),
        *(step("fused", 110.0), step("fused-graph", 100.0)),
        step("fused-compile", 50.0, problems=["losses differ"]),
        step("fused", 1.0, dtype="float16"),
        step("fused", 1.0, work="evaluate"),
        step("fused", 1.0, width=16),
        step("fused", 1.0, batch_size=128),
    ]
    found = verdicts(rows)
    name = Code("fused-graph")
    assert found["resnet18", "standard", "eager"] == (name, "512", "1.60x", "met")
    assert found["resnet18", "standard", "max-autotune"] == (name, "512", "1.09x", "missed")
    assert found["resnet18", "0.3-Bottom", "eager"][-1] == "not measured"
    # Of other networks the largest batch stands in; of ResNet-18 none does.
    small = [step("fused", 100.0, batch_size=b, arch="vgg19") for b in (64, 128)]
    small += [step("compile", 100.0, batch_size=128, arch="vgg19")]
    found = verdicts([*small, step("fused", 1.0, batch_size=128)])
    assert found["vgg19", "standard", "compile"] == (Code("fused"), "128", "1.00x", "met")
    assert found["resnet18", "standard", "eager"][-1] == "not measured"
    # What another run measured is no rival.
    apart = [step("fused", 100.0, time=NEW), step("fused-graph", 200.0), step("eager", 900.0)]
    found = verdicts(apart)["resnet18", "standard", "eager"]
    assert found == (Code("fused-graph"), "512", "4.50x", "met")
    assert verdicts(apart[::2])["resnet18", "standard", "eager"][-1] == "not measured"
    # A rival that failed is beaten by nobody.
    failed = [step("fused", 100.0), step("eager", 900.0, problems=["bad"])]
    assert verdicts(failed)["resnet18", "standard", "eager"][-1] == "not measured"


@pytest.mark.parametrize(("cost", "verdict"), [(2.0, "met"), (2.01, "missed"), (None, "not")])
def test_cost_of_masks(cost, verdict):
    masked = step("fused", 100.0, defects="0.3-Bottom", mask_overhead_percent=cost)
    slower = step("fused-compile", 200.0, defects="0.3-Bottom", mask_overhead_percent=99.0)
    assert verdicts([masked, slower])["resnet18", "0.3-Bottom", ""][-1].startswith(verdict)


def test_all_losses_and_problems_are_listed(tmp_path, no_pictures):
    rows = [*one_of_each(), operator("cudnn", 1.0), convergence("compile", 0, 5.0)]
    rows += [step("max-autotune", 80.0), step("fused-compile", 70.0)]
    document = page.build(loaded(tmp_path, rows))
    case = "resnet18 standard, train, bfloat16, 32 pixels, batch 512"
    assert cells(document, "case") == [
        [case, "fused", "max-autotune", "1.25x"],
        [case, "fused", "compile", "1.11x"],
        ["resnet18 standard, fake to 80.0%", "fused", "compile", "4.00x"],
        ["bn_mask_add_relu, none, forward, 4x16x8x8, bfloat16", "triton", "cudnn", "2.00x"],
    ]
    bullets = [line for b in document.blocks if isinstance(b, Bullets) for line in b.items]
    assert bullets[0].startswith("bfloat16: 4x16x8x8 none: slower than eager-fp16: cold graph")
    assert bullets[1:] == [f"step: {case}: fused-graph: bad"]
    # Our fastest loses to nobody here, another of ours does.
    text = text_of(document, tmp_path)
    assert "our fastest contestant loses" not in text
    assert "another of our contestants loses: 2" in text


def test_no_losses_are_said():
    words = losses.blocks([step("fused", 1.0), step("eager", 2.0)])[1].inline.text
    assert words.startswith("No losses") and "1 comparisons" in words
    assert "beside another" in losses.blocks([step("fused", 1.0)])[1].inline.text


def test_changes_beyond_noise(tmp_path):
    rows = []
    for name, after in (("fused", 101.9), ("eager", 103.0), ("compile", 90.0)):
        rows += [step(name, 100.0), step(name, after, commit="new", time=NEW)]
    pairs = loaded(tmp_path, rows).pairs("cuda", "Test GPU")
    shown = changes.blocks(pairs)[-1].rows
    assert [(line[1].text, line[-1]) for line in shown] == [("eager", "+3.0"), ("compile", "-10.0")]
    assert all(line[2:4] == ["aaa1111", "new"] for line in shown)


def test_where_the_time_goes():
    """1 MB at 1000 GB/s is 1 us: forward 3 us has a gap of 2, three times in ResNet-18."""
    rows = [layer("ours", 3.0), layer("eager", 9.0), layer("ours", 99.0, problems=["wrong"])]
    found = {gap.step: gap for gap in gaps.gaps(rows)}
    assert found["forward"].all_uses_us == pytest.approx(6.0)
    assert found["backward"].all_uses_us == pytest.approx(12.0)
    assert found["forward"].network == "resnet18"
    assert gaps.most_uses("headline") == (None, 1)
    many = [layer("ours", 2.0 + n, site={"name": f"S{n}", "users": "headline"}) for n in range(9)]
    (*_, table) = gaps.blocks(many)
    assert len(table.rows) == 10
    assert table.rows[0][0] == "S8" and table.rows[0][2] == "backward"


def test_seeds_that_missed_leave_no_mean(tmp_path, no_pictures):
    rows = [convergence("fused", seed, seconds) for seed, seconds in enumerate((10.0, 14.0))]
    rows += [convergence("eager", 0, 20.0), convergence("eager", 1, None)]
    document = page.build(loaded(tmp_path, rows))
    found = {line[3]: line for line in cells(document, "network") if len(line) == 9}
    assert found["fused"][4:7] == ["0: 10.0, 1: 14.0", "12.0", "2.00"]
    assert found["eager"][4:7] == ["0: 20.0, 1: missed", "-", "-"]
