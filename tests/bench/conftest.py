"""What tests of timings share."""

import pytest


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses and few calls: for tests that check numbers, not speed."""
    monkeypatch.setattr("foveal.bench.timing.PAUSE", 0.0)
    monkeypatch.setattr("foveal.bench.timing.ROUND", 0.0005)
    monkeypatch.setattr("foveal.peak.RUNS", 2)
    monkeypatch.setattr("foveal.peak.COPY_RUNS", 1)
    monkeypatch.setattr("foveal.peak.COPY_BYTES", 1 << 20)
    monkeypatch.setattr("foveal.bench.output.LARGE", 1 << 20)
    monkeypatch.setattr("foveal.bench.timing.FIRST_SECONDS", 0.0)
