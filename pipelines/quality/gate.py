"""Room 2: sound rows go on, broken rows go to quarantine, every row is accounted for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame, Row, Window
from pyspark.sql import functions as F
from pyspark.storagelevel import StorageLevel

from pipelines.company import TableConfig
from pipelines.contracts import (
    ARRIVAL,
    CONTENT_HASH,
    EVENT_ID,
    EVENT_TIME,
    KEY_HASH,
    QUARANTINE,
    RAW_ROW,
    ROW_HASH,
    RULE,
    SOURCE_TABLE,
    TableContract,
)
from pipelines.quality.suites import row_rules

FEW_ROWS: Final = 200_000
"""So many rows are cheaper to keep, and to look through in this process, than to read again."""
MAX_HASHES_HERE: Final = 20_000_000
"""So many hashes this process sorts (160 MB); more are dealt out to Spark's tasks."""
MAX_SHOWN_CONFLICTS: Final = 3
_HASH_LENGTH: Final = 32
_EXPIRED: Final = "expired"
"""Stands for a rule in rows that are too old to be kept; rules of columns begin with their name."""
_NONE: Final = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Where the rows of one source table went.

    input = accepted + quarantined + duplicates + expired, which are older than what is kept.
    """

    table: str
    into: str
    input_rows: int
    accepted: int
    quarantined: int
    duplicates: int
    rules: dict[str, int]
    conflicting_keys: int
    max_quarantined_share: float
    unknown_items: int = 0
    expired: int = 0

    @property
    def unaccounted(self) -> int:
        return self.kept_rows - self.accepted - self.quarantined - self.duplicates

    @property
    def kept_rows(self) -> int:
        """Rows that are not too old."""
        return self.input_rows - self.expired

    @property
    def quarantined_share(self) -> float:
        return self.quarantined / max(self.kept_rows, 1)

    def __str__(self) -> str:
        rules = ", ".join(f"{name} {count:,}" for name, count in sorted(self.rules.items()))
        return (
            f"{self.table}: {self.input_rows:,} rows in = {self.accepted:,} accepted + "
            f"{self.quarantined:,} quarantined + {self.duplicates:,} duplicates"
            + (f" + {self.expired:,} expired" if self.expired else "")
            + (f" ({rules})" if rules else "")
        )


@dataclass(frozen=True, kw_only=True)
class Gated:
    """One canonical table behind the gate.

    Args:
        contract: The company's contract with the columns that intake adds.
        accepted: Sound rows, one per key.
        quarantine: Rows of the `quarantine` table.
        ledgers: One per source table.
        read: All rows that came and are kept, with their raw rows; reading them may read the
            source again.
        conflicts: Rows of a few keys that came with different content, as JSON.
        staged: The rows behind both frames; unpersist when they are written.
        since_us: No stored row with a key of these lies before (UTC microseconds); None where
            only their keys tell.
    """

    contract: TableContract
    accepted: DataFrame
    quarantine: DataFrame
    ledgers: list[Ledger]
    read: DataFrame
    staged: DataFrame
    conflicts: list[str] = field(default_factory=list)
    since_us: int | None = None


def gate(
    rows: DataFrame,
    contract: TableContract,
    tables: Sequence[TableConfig],
    *,
    reread: bool = False,
    retained_from: datetime | None = None,
) -> Gated:
    """Split canonical rows into accepted and quarantined ones, and count everything.

    Of rows with one key the latest is accepted where `ARRIVAL` tells, else one of equal content.

    Args:
        rows: What `stages.canonical.canonical_rows` gives, of all source tables of one contract.
        contract: The contract of the rows with the columns that intake adds.
        tables: The source tables.
        reread: Read the rows again for each pass, where that is cheaper than keeping them; a few
            are kept all the same.
        retained_from: Older events are counted and left out; None: everything is kept.
    """
    if retained_from is None or EVENT_TIME not in rows.columns:
        is_expired = F.lit(False)
    else:
        is_expired = F.coalesce(F.col(EVENT_TIME) < retained_from, F.lit(False))
    staged = _flagged(rows, contract, is_expired)
    if not reread:
        staged.persist(StorageLevel.MEMORY_AND_DISK)
    found = staged.groupBy(SOURCE_TABLE, RULE).agg(F.count("*"), _first_us(contract)).collect()
    counts = {(table, rule): num for table, rule, num, _ in found}
    num_rows = sum(counts.values())
    are_few = num_rows <= FEW_ROWS
    if reread and are_few:
        staged.persist(StorageLevel.MEMORY_AND_DISK)
    sound = staged.where(F.col(RULE).isNull()).drop(RULE, RAW_ROW)
    hashes = sound.select(KEY_HASH)
    here = num_rows <= MAX_HASHES_HERE
    may_repeat = bool(_num_twins(hashes.toArrow().to_batches())) if here else _may_repeat(hashes)
    sound = sound.drop(KEY_HASH)
    accepted, keys = _one_per_key(sound, contract) if may_repeat else (sound, _Keys())
    any_broken = any(rule not in (None, _EXPIRED) for _, rule in counts)
    quarantine = _quarantine(staged if any_broken else staged.limit(0))
    quarantined = _count_by_table(quarantine) if any_broken else {}
    return Gated(
        contract=contract,
        accepted=accepted.select(*contract.column_names),
        quarantine=quarantine,
        read=rows.where(~is_expired),
        staged=staged,
        conflicts=keys.conflicts,
        since_us=_since(found) if _keys_tell_times(contract, tables) else None,
        ledgers=[_ledger(table, counts, keys, quarantined) for table in tables],
    )


def _first_us(contract: TableContract) -> Column:
    if EVENT_TIME not in contract.column_names:
        return F.lit(None).cast("long")
    return F.unix_micros(F.min(EVENT_TIME))


def _keys_tell_times(contract: TableContract, tables: Sequence[TableConfig]) -> bool:
    """Whether ids are made of what rows say: rows with one id have one time."""
    return EVENT_ID in contract.key and all(EVENT_ID not in table.columns for table in tables)


def _since(found: Sequence[Row]) -> int | None:
    """The earliest time of sound rows, in whole milliseconds as files' statistics hold times."""
    first = min((first for _, rule, _, first in found if rule is None), default=None)
    return None if first is None else first // 1_000 * 1_000


def _flagged(rows: DataFrame, contract: TableContract, is_expired: Column) -> DataFrame:
    broken = [F.when(column, F.lit(rule)) for rule, column in row_rules(contract).items()]
    rule = F.when(is_expired, F.lit(_EXPIRED)).otherwise(F.coalesce(RULE, *broken))
    raw_row = F.when(rule != _EXPIRED, F.col(RAW_ROW))
    arrival = [name for name in rows.columns if name == ARRIVAL]
    names = dict.fromkeys((*contract.column_names, KEY_HASH, SOURCE_TABLE, *arrival))
    return rows.select(*names, rule.alias(RULE), raw_row.alias(RAW_ROW))


@dataclass(frozen=True, kw_only=True)
class _Keys:
    """Keys that came more than once."""

    duplicates: dict[str, int] = field(default_factory=dict)
    num_conflicting: int = 0
    conflicts: list[str] = field(default_factory=list)


def _one_per_key(sound: DataFrame, contract: TableContract) -> tuple[DataFrame, _Keys]:
    twins = (
        sound.groupBy(*contract.key)
        .agg(
            F.count("*").alias("num"),
            F.min(CONTENT_HASH).alias("first"),
            F.max(CONTENT_HASH).alias("last"),
        )
        .where("num > 1")
    )
    found = twins.agg(F.count("*"), F.count_if(F.expr("first <> last"))).first() or (0, 0)
    if not found[0]:
        return sound, _Keys()
    first = F.desc(ARRIVAL) if ARRIVAL in sound.columns else F.asc(CONTENT_HASH)
    order = Window.partitionBy(*contract.key).orderBy(first, SOURCE_TABLE)
    numbered = sound.withColumn("position", F.row_number().over(order))
    keys = _Keys(
        duplicates=_count_by_table(numbered.where("position > 1")),
        num_conflicting=found[1],
        conflicts=_conflicts(sound, twins, contract) if found[1] else [],
    )
    return numbered.where("position = 1").drop("position"), keys


def _may_repeat(hashes: DataFrame) -> bool:
    """Whether two keys have the same 64-bit hash; in most intakes none have."""
    found = (
        hashes.repartition(KEY_HASH)
        .mapInArrow(_twins, "num_twins long")
        .agg(F.sum("num_twins"))
        .first()
    )
    return bool(found and found[0])


def _twins(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield pa.record_batch({"num_twins": pa.array([_num_twins(batches)], type=pa.int64())})


def _num_twins(batches: Iterable[pa.RecordBatch]) -> int:
    """How many equal neighbours the sorted hashes have."""
    hashes = np.sort(np.concatenate([_NONE, *(batch.column(0).to_numpy() for batch in batches)]))
    return int(np.count_nonzero(hashes[1:] == hashes[:-1]))


def _conflicts(sound: DataFrame, twins: DataFrame, contract: TableContract) -> list[str]:
    keys = list(contract.key)
    shown = twins.where("first <> last").orderBy(*keys).limit(MAX_SHOWN_CONFLICTS).select(*keys)
    rows = sound.join(F.broadcast(shown), keys)
    as_json = F.to_json(F.struct(*(name for name in rows.columns if name != CONTENT_HASH)))
    shown_rows = rows.select(as_json.alias("row")).orderBy("row").limit(2 * MAX_SHOWN_CONFLICTS)
    return [row["row"] for row in shown_rows.collect()]


def row_hash() -> Column:
    """What identifies a raw row of a source table: the values that it holds, by name.

    Columns that other rows gain, and the order in which a file has them, do not count. A row that
    is too large to be taken apart is known by its text.
    """
    values = F.map_entries(F.from_json(RAW_ROW, "map<string, string>"))
    held = F.array_sort(F.filter(values, lambda one: one["value"].isNotNull()))
    text = F.concat_ws(" ", SOURCE_TABLE, F.coalesce(F.to_json(held), RAW_ROW))
    return F.left(F.sha2(text, 256), F.lit(_HASH_LENGTH)).alias(ROW_HASH)


def _quarantine(staged: DataFrame) -> DataFrame:
    return (
        staged.where(F.col(RULE) != _EXPIRED)
        .select(
            SOURCE_TABLE,
            RULE,
            RAW_ROW,
            row_hash(),
        )
        .dropDuplicates(list(QUARANTINE.key))
        .select(*QUARANTINE.column_names)
    )


def _count_by_table(frame: DataFrame) -> dict[str, int]:
    return {
        row[SOURCE_TABLE]: row["count"] for row in frame.groupBy(SOURCE_TABLE).count().collect()
    }


def _ledger(
    table: TableConfig,
    counts: dict[tuple[str, str | None], int],
    keys: _Keys,
    quarantined: dict[str, int],
) -> Ledger:
    rules = {rule: num for (name, rule), num in counts.items() if name == table.name and rule}
    expired = rules.pop(_EXPIRED, 0)
    sound = counts.get((table.name, None), 0)
    bad = quarantined.get(table.name, 0)
    twins = keys.duplicates.get(table.name, 0)
    return Ledger(
        table=table.name,
        into=table.into,
        input_rows=sound + sum(rules.values()) + expired,
        accepted=sound - twins,
        quarantined=bad,
        duplicates=twins + sum(rules.values()) - bad,
        rules=rules,
        conflicting_keys=keys.num_conflicting,
        max_quarantined_share=table.max_quarantined_share,
        expired=expired,
    )
