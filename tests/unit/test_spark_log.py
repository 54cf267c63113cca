"""Spark's log does not grow for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.flow import spark


def test_a_large_log_makes_way_and_the_last_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spark, "_MAX_LOG_BYTES", 4)
    log, put_away = tmp_path / "spark.log", tmp_path / "spark.log.1"
    log.write_text("tiny")
    spark._put_away_when_large(log)
    assert log.is_file()
    for content in ("first", "second"):
        log.write_text(content)
        spark._put_away_when_large(log)
        assert not log.exists()
        assert put_away.read_text() == content
