"""Options of all layers."""

from __future__ import annotations

import pytest


def pytest_addoption(parser):
    parser.addoption("--update", action="store_true", help="rewrite the recorded snapshots")


@pytest.fixture
def update(request) -> bool:
    """Whether recorded snapshots are to be rewritten instead of compared."""
    return request.config.getoption("--update")
