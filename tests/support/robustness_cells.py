"""Made-up cells of evaluations, in the form that the commands write."""

from math import sqrt

SETTINGS = {
    "fgsm": {"attack": "fgsm", "eps": 8 / 255, "norm": "linf"},
    "pgd": {"attack": "pgd", "eps": 16 / 255, "step": 1 / 255, "steps": 20, "norm": "linf"},
}
TEXTS = {"fgsm": "fgsm:eps=8/255,norm=linf", "pgd": "pgd:eps=16/255,step=1/255,steps=20,norm=linf"}


def rate(k, n):
    """Counts as results hold them; the interval is Wilson's, written out once more."""
    if n == 0:
        return {"k": 0, "n": 0, "rate": None, "low": None, "high": None}
    z = 1.959963984540054
    p, d = k / n, 1 + z * z / n
    half = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / d
    middle = (p + z * z / (2 * n)) / d
    return {"k": k, "n": n, "rate": p, "low": max(0, middle - half), "high": min(1, middle + half)}


def cell(kind, target, identity, results, **shown):
    names = {"target": target, "target_arch": "resnet18", "target_defects": target} | shown
    return {
        "format": 1,
        "kind": kind,
        "label": f"{target} {shown.get('attack', '')}",
        "identity": {"target": f"digest of {target}", **identity},
        "results": results | {"shown": names},
        "made": {"seconds": 1.0},
    }


def clean(target, k, n=1000, **shown):
    identity = {"data": "cifar10", "images": "f00d"}
    return cell("clean", target, identity, {"accuracy": rate(k, n)}, **shown)


def transfer(target, k, n, *, source="source", attack="pgd", relation="transfer", **more):
    """``more``: further results, such as defence_common."""
    results = {
        "defence": rate(k, n),
        "defence_all": more.pop("defence_all", rate(k + 10, n + 10)),
        "relation": relation,
        "fooled_source": rate(n, n + 10),
        **more,
    }
    identity = {
        "set": {
            "attack": dict(SETTINGS[attack]),
            "source": f"digest of {source}",
            "data": "f00d",
            "pixels": "uint8",
            "precision": "float32",
        }
    }
    names = {"source": source, "attack": TEXTS[attack], "pixels": "uint8"}
    return cell("transfer", target, identity, results, **names)


def white_box(target, k, n, attack="pgd"):
    results = {
        "robust_accuracy": rate(k, n),
        "defence": rate(k, max(k, n - 10)),
        "forwards_mean": 20.0,
        "backwards_mean": 20.0,
        "median_l2": 1.25,
        "median_linf": 16 / 255,
    }
    identity = {"attack": dict(SETTINGS[attack]), "indices": "f00d", "precision": "float32"}
    return cell("white-box", target, identity, results, attack=TEXTS[attack])


def boundary(target, median, mean, n, indices="f00d"):
    results = {
        "score_median": median,
        "score_mean": mean,
        "n": n,
        "statuses": {"no start": 2, "fooled": n},
        "forwards_mean": 25000.5,
    }
    identity = {"attack": {"attack": "boundary", "steps": 5000}, "indices": indices}
    return cell("boundary", target, identity, results, attack="boundary:steps=5000")


def noise(target, epsilon, k, n=1000, tails="clip"):
    """``epsilon`` in levels of 255."""
    identity = {"sigma": epsilon / 510, "limit": 2.0, "tails": tails, "seeds": [0, 1]}
    results = {
        "accuracy": rate(k, n),
        "per_draw": [rate(k, n)["rate"]] * 2,
        "epsilon": epsilon / 255,
    }
    return cell("noise", target, identity | {"indices": "f00d"}, results)


def shuffle(target, grid, k, n=1000):
    identity = {"grid": grid, "seed": 0, "indices": "f00d"}
    return cell("shuffle", target, identity, {"accuracy": rate(k, n), "grid": grid})


def stylized(target, k, n=1000):
    return cell("stylized", target, {"files": "beef"}, {"accuracy": rate(k, n)})


def everything():
    """Cells of every kind, as two networks of one name, hostile names and missing images give
    them."""
    cells = [clean("standard", 953), clean("0.3-Bottom", 918), clean("0.5-Bottom", 935)]
    for attack in ("fgsm", "pgd"):
        more = {"source": "standard", "attack": attack}
        cells += [
            transfer("standard", 0, 980, relation="white-box", **more),
            transfer("0.5-Bottom", 340, 930, **more),
            transfer("0.3-Bottom", 640, 900, relation="DIF", same_wrong_class=rate(5, 8), **more),
        ]
    cells += [transfer("0.5-Top", 0, 0), transfer("0.1-Bottom", 4, 9)]
    for changes in ({"steps": 40}, {"pixels": "float"}):  # settings shown and not shown in a head
        made = transfer("0.5-Top", 5, 9, source="s|t", defence_unrounded=rate(3, 8))
        made["identity"]["set"]["pixels"] = changes.get("pixels", "uint8")
        if "steps" in changes:
            made["identity"]["set"]["attack"] |= changes
            shown = made["results"]["shown"]
            shown["attack"] = shown["attack"].replace("steps=20", "steps=40")
        cells.append(made)
    for together in ("ab", "abc", "bc"):  # a target measured in two commands has two such rates
        for name in together:
            made = transfer(name, 4, 9, defence_common=rate(len(together), 8), source="x")
            made["identity"]["images_common"] = together
            cells.append(made)
    cells += [white_box("standard", 3, 1000), white_box("0.3-Bottom", 30, 1000)]
    cells += [boundary("standard", 7.3e-6, 1.2e-5, 500, "a"), boundary("a", None, None, 0, "a")]
    cells += [boundary("0.3-Bottom", 3.5e-5, 5.6e-5, 400, "b")]
    for target, slope in (("standard", 10), ("0.3-Bottom", 8)):
        cells += [noise(target, e, round(1000 - slope * e)) for e in (64, 8, 16, 0.01, 4)]
        cells += [noise(target, 8, 700 - slope, tails="keep")]
        cells += [shuffle(target, k, 1000 - slope * k) for k in (8, 1, 2, 4)]
        cells += [stylized(target, slope * 20)]
    for group, images in (("abc", "1st"), ("d", "2nd")):  # two choices of images share no table
        for name in group:
            for made in (noise(name, 8, 0, 0), shuffle(name, 8, 50, 100)):
                made["identity"]["indices"] = images
                made["results"]["shown"]["right_for"] = list(group)
                cells.append(made)
    cells += [clean("a|b`*_<i>\nc", 5, 10), clean("twice", 9, 10), clean("twice", 5, 10)]
    for cell_, digest in zip(cells[-2:], ("a" * 10, "b" * 10), strict=True):
        cell_["identity"]["target"] = digest
    for k, end in ((3, "a"), (5, "b")):  # settings that differ beyond what is shown
        made = clean("d", k, 10)
        made["identity"]["images"] = "the same for 24 characters " + end
        cells.append(made)
    return cells
