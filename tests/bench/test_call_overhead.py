"""The measurement runs, and replaces what it says: no kernel is launched, no statistic changes."""

import pytest
from scotoma.bench import call_overhead
from scotoma.kernels import backends, launch


@pytest.mark.skipif(not backends.interpreting(), reason="needs TRITON_INTERPRET=1, as on a CPU")
def test_it_measures_the_host_alone(monkeypatch):
    monkeypatch.setattr(launch, "device_kernels", lambda: pytest.fail("a kernel was launched"))
    found = call_overhead.measure(calls=3)
    assert set(found) == {"eager_mode", "registered_operator", "empty_function"}
    assert 0 < found["empty_function"] < found["registered_operator"]
