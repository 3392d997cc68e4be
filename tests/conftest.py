"""Options of all layers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.campaign.parts import PARTS
from tests.campaign.record import RESULTS, Record


def pytest_addoption(parser):
    parser.addoption("--update", action="store_true", help="rewrite the recorded snapshots")
    parser.addoption("--campaign", type=int, help="how often a part of the campaign tries")
    parser.addoption("--campaign-seed", type=int, default=0, help="of everything random in it")
    parser.addoption("--campaign-results", type=Path, default=RESULTS, help="where it writes")


@pytest.fixture
def update(request) -> bool:
    """Whether recorded snapshots are to be rewritten instead of compared."""
    return request.config.getoption("--update")


@pytest.fixture
def campaign(request, tmp_path):
    """Starts the record of a part of the campaign; in the docs only if its count is given."""
    count = request.config.getoption("--campaign")
    seed = request.config.getoption("--campaign-seed")
    folder = request.config.getoption("--campaign-results")

    def begin(name: str) -> Record:
        part = PARTS[name]
        return Record(name, part, count or part.few, seed, folder if count else tmp_path)

    return begin
