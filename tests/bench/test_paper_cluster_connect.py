"""A Ray cluster that is asked for: which one, with which devices, and why not."""

import socket
import sys
import time

import pytest
from paper_smoke import context
from ray_cluster import Fake, ray
from scotoma.bench.paper.graph import cluster_connect
from scotoma.bench.paper.graph.cluster import run_on_cluster
from scotoma.bench.paper.graph.plan import Plan
from scotoma.bench.paper.options import RunOptions, make_paper_parser, run_options
from scotoma.defective.errors import UserError


@pytest.fixture
def apart():
    """No connection is open."""
    ray.shutdown()


@pytest.mark.parametrize("per_gpu", [0, None])
def test_a_cluster_of_our_own_is_told_of_gpus(apart, store, monkeypatch, per_gpu):
    seen = {}

    def init(address, **options):
        seen.update(options)
        raise RuntimeError("enough")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(UserError, match="enough"):
        run_on_cluster(Plan.of([Fake("x")], store), context(store), "local", per_gpu=per_gpu)
    assert seen.get("num_gpus") == per_gpu


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--ray", "local"], RunOptions("local", None)),
        (["--ray", "local", "--per-gpu", "2"], RunOptions("local", 2)),
        (["--ray", "local", "--device", "cpu"], RunOptions("local", 0)),
        (["--device", "cuda:1"], RunOptions(None, None)),
        (["--ray", "auto", "--device", "cuda"], "--device cuda with --ray: .*auto or cpu"),
        (["--ray", "auto", "--device", "cuda:1"], "--device cuda:1 with --ray"),
        (["--ray", "auto", "--device", "cpu", "--per-gpu", "2"], "--per-gpu is for tasks on GPUs"),
    ],
)
def test_devices_and_clusters(given, expected):
    arguments = make_paper_parser().parse_args(["table4", *given])
    if isinstance(expected, RunOptions):
        assert run_options(arguments) == expected
    else:
        with pytest.raises(UserError, match=expected):
            run_options(arguments)


def test_no_work_needs_no_cluster(store):
    fake = Fake("done-before")
    fake.path(store).parent.mkdir(parents=True)
    fake.path(store).write_text("{}")
    assert run_on_cluster(Plan.of([fake], store), context(store), "127.0.0.1:1") == []


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "--ray 127.0.0.1:1: nothing answers there .*refused.*ray start --head"),
        ("ray://127.0.0.1:10001", "--ray 'ray://127.0.0.1:10001': expected local, auto or HOST"),
        ("head", "--ray 'head': expected local, auto or HOST:PORT"),
        ("head:port", "--ray 'head:port': expected"),
        ("head:0", "--ray 'head:0': expected"),
        (":6379", "--ray ':6379': expected"),
    ],
)
def test_addresses_without_a_cluster(apart, store, address, message):
    start = time.monotonic()
    with pytest.raises(UserError, match=message):
        run_on_cluster(Plan.of([Fake("x")], store), context(store), address)
    assert time.monotonic() - start < cluster_connect.ANSWER_SECONDS + 5


def test_a_port_of_something_else(apart, store, monkeypatch):
    """Ray itself would try for minutes."""
    monkeypatch.setattr(cluster_connect, "TRIAL_SECONDS", 4.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UserError, match=f"--ray {address}: no Ray cluster answers there"):
            run_on_cluster(Plan.of([Fake("x")], store), context(store), address)


def test_what_ray_says_is_passed_on(apart, monkeypatch):
    monkeypatch.setattr(
        cluster_connect, "_TRIAL", "import sys; sys.exit('noise\\nreason: Version mismatch')"
    )
    with pytest.raises(UserError, match="--ray auto: Version mismatch; expected local"):
        run_on_cluster_of_nothing("auto")


def test_why_ray_was_refused_is_passed_on(apart, monkeypatch):
    """Ray 2.60 says that to its log alone: this is what a missing token looks like."""
    why = "Unauthenticated: RPC error: InvalidAuthToken: Authentication token is missing"
    line = f"[2026-11-23 14:08:59,894 W 31215 31215] gcs_client.cc:210: {why}\n"
    text = f"{line * 2}reason: Failed to connect to Ray cluster at 10.0.0.1:6379"
    monkeypatch.setattr(cluster_connect, "_TRIAL", f"import sys; sys.exit({text!r})")
    with pytest.raises(UserError, match=rf"auto: Failed to .*:6379 \({why}\); expected local"):
        run_on_cluster_of_nothing("auto")


def run_on_cluster_of_nothing(address):
    with cluster_connect.connected(address):
        pass


def test_without_ray(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'scotoma\[ray\]'"):
        run_on_cluster(Plan.of([Fake("x")], store), context(store), "local")


@pytest.mark.parametrize("per_gpu", [-1, 1001])
def test_numbers_for_a_gpu(store, per_gpu):
    with pytest.raises(UserError, match=f"--per-gpu is {per_gpu}; expected 1 to 1000"):
        run_on_cluster(Plan.of([], store), context(store), "local", per_gpu=per_gpu)
