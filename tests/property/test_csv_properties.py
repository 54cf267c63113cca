"""Any text survives CSV: quotes, separators, line ends, scripts, encodings."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.company import SourceConfig
from pipelines.sources.registry import read_source
from pipelines.sources.request import SourceRequest

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.integration

# Spark trims carriage returns and NUL, and reads an empty field as missing.
any_text = st.text(
    alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\r\0\ufeff"),
    min_size=1,
    max_size=8,
)
latin_text = st.text(
    alphabet=st.characters(min_codepoint=32, max_codepoint=255, exclude_categories=["Cc"]),
    min_size=1,
    max_size=8,
)


def read_back(
    spark: SparkSession, texts: list[str], encoding: str, delimiter: str
) -> list[str | None]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.csv"
        with path.open("w", encoding=encoding, newline="") as file:
            writer = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL)
            writer.writerow(["position", "text"])
            writer.writerows(enumerate(texts))
        source = SourceConfig(
            format="csv",
            path=str(path),
            options={"encoding": encoding, "delimiter": delimiter},
        )
        company_path = Path(folder) / "company.yaml"
        request = SourceRequest(table="texts", source=source, company_path=company_path)
        rows = read_source(spark, request).collect()
    return [row["text"] for row in sorted(rows, key=lambda row: int(row["position"]))]


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(texts=st.lists(any_text, min_size=5, max_size=40), delimiter=st.sampled_from(",;\t|"))
def test_any_text_in_utf_8(spark: SparkSession, texts: list[str], delimiter: str) -> None:
    assert read_back(spark, texts, "UTF-8", delimiter) == texts


@settings(
    max_examples=5,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(texts=st.lists(latin_text, min_size=5, max_size=40))
def test_western_text_in_latin_1(spark: SparkSession, texts: list[str]) -> None:
    assert read_back(spark, texts, "ISO-8859-1", ",") == texts
