"""What tests of several protocols are given; fixtures are taken over by name, as in
``images, cells = shared.images, shared.cells``.
"""

import pytest
from protocol_targets import right_for_both, sample_images, watched
from scotoma.train.store import Store


@pytest.fixture
def images():
    return sample_images()


@pytest.fixture
def targets():
    return watched()


@pytest.fixture
def indices():
    return right_for_both()


@pytest.fixture
def cells(tmp_path):
    return Store(tmp_path / "cells")
