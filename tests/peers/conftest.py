"""Switches off threads, caches and progress bars, which a few rows and a tiny model do not need."""

from __future__ import annotations

from collections.abc import Iterator

import datasets
import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def light() -> Iterator[None]:
    """Use one thread, because more would only wait for each other, and no caches. Both are restored afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    datasets.disable_caching()
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()
    datasets.enable_caching()
    torch.set_num_threads(threads)
