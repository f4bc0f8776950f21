"""Errors for people."""

from contextlib import contextmanager

import pytest
from scotoma.defective.errors import UserError


@contextmanager
def refused(*words, error=UserError):
    """What happens inside is refused by a message in which these words are."""
    with pytest.raises(error) as caught:
        yield
    assert all(word in str(caught.value) for word in words), f"{words}: {caught.value}"
