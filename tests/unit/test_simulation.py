"""The simulated shop: deterministic, bounded, and true to its truth tables."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pipelines.company import load_company
from pipelines.errors import UserError
from pipelines.simulation import plan as plans
from pipelines.simulation.arrays import DAY_US
from pipelines.simulation.blocks import Block, blocks, draw_block
from pipelines.simulation.catalogue import ERROR_SHARES, plant_errors
from pipelines.simulation.customers import ARCHETYPES, BOT, FADE_DAYS
from pipelines.simulation.oracle import answer, no_bought_need
from pipelines.simulation.plan import START_US, WINDOW_DAYS, SimulationOptions, plan
from pipelines.simulation.queries import make_queries
from pipelines.simulation.records import ORDERS, event_tables
from pipelines.simulation.run import Simulated, simulate
from pipelines.simulation.world import World, make_world
from serving.cli.main import app

OPTIONS = SimulationOptions(
    out=Path("unused"), num_events=20_000, num_users=300, num_items=400, seed=3, dirty=True
)


def silent(line: str) -> None:
    """Take a line and say nothing."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    """A small shop on disk, in several parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plans, "EVENTS_OF_A_BLOCK", 6_000)
        out = tmp_path_factory.mktemp("simulated") / "shop"
        return simulate(replace(OPTIONS, out=out), silent)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The world of a larger shop."""
    out = tmp_path_factory.mktemp("world")
    return make_world(plan(SimulationOptions(out=out, num_events=600_000, seed=1)))


@pytest.fixture(scope="module")
def block(world: World) -> Block:
    """Its first block of users."""
    return draw_block(world, 0)


def read(shop: Simulated, name: str) -> pa.Table:
    path = shop.company.parent / name
    return pq.read_table(path if path.is_dir() else path.with_suffix(".parquet"))


def column(table: pa.Table, name: str) -> np.ndarray[Any, Any]:
    return np.asarray(table[name].to_numpy(zero_copy_only=False))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_options_give_the_same_bytes(shop: Simulated, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plans, "EVENTS_OF_A_BLOCK", 6_000)
        again = simulate(replace(OPTIONS, out=tmp_path / "again"), silent)
        other = simulate(replace(OPTIONS, out=tmp_path / "other", seed=4), silent)
    expected = contents(shop.company.parent)
    assert contents(again.company.parent) == expected
    changed = contents(other.company.parent)
    assert {name for name in changed if changed[name] == expected.get(name)} == {
        "staff_questions.py",
        "truth/archetypes.parquet",
        "truth/categories.parquet",
        "truth/markets.parquet",
    }
    assert len(list((shop.company.parent / "raw" / ORDERS).glob("part-*"))) == 4


def test_a_block_depends_on_its_number_alone(world: World) -> None:
    last = world.plan.num_blocks - 1
    *_, drawn_last = blocks(world)
    alone = event_tables(world, draw_block(world, last))
    assert alone == event_tables(world, drawn_last)


def test_memory_holds_one_block_however_many_there_are(tmp_path: Path) -> None:
    def peak(num_events: int) -> int:
        world = make_world(plan(SimulationOptions(out=tmp_path, num_events=num_events, seed=2)))
        tracemalloc.reset_peak()
        for one in blocks(world):
            assert len(one.users) <= world.plan.users_per_block
            assert sum(map(len, event_tables(world, one).values())) < 1.3 * 15_000
        return tracemalloc.get_traced_memory()[1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plans, "EVENTS_OF_A_BLOCK", 15_000)
        tracemalloc.start()
        try:
            small, large = peak(50_000), peak(150_000)
        finally:
            tracemalloc.stop()
    assert large < 1.2 * small


def test_the_number_of_events_comes_near_the_one_asked_for(world: World, shop: Simulated) -> None:
    found = sum(sum(map(len, event_tables(world, one).values())) for one in blocks(world))
    assert found == pytest.approx(world.plan.num_events, rel=0.03)
    duplicates = shop.num_dirty["duplicated"]
    assert shop.num_events - duplicates == pytest.approx(OPTIONS.num_events, rel=0.1)


def all_events(shop: Simulated) -> pa.Table:
    """User, item and time of the events of all systems, broken rows left out."""
    clicks, searches, orders, returns = (
        read(shop, f"raw/{name}") for name in ("clickstream", "searches", "orders", "returns")
    )
    sound = pc.and_(
        pc.is_valid(orders["client"]),
        pc.not_equal(pc.utf8_slice_codeunits(orders["ordered_at"], 5, 7), "13"),
    )
    orders = orders.filter(sound)
    times = [clicks["at"], searches["typed_us"], orders["ordered_at"], returns["returned_at"]]
    users = [clicks["visitor"], searches["shopper"], orders["client"], returns["client"]]
    nothing = pa.nulls(len(searches), pa.string())
    items = [clicks["sku"], nothing, orders["sku"], returns["sku"]]
    utc = pa.timestamp("us", tz="UTC")
    parts = [
        pa.table({"user_id": user, "item_id": item, "time": time.cast(utc)})
        for user, item, time in zip(users, items, times, strict=True)
    ]
    return pa.concat_tables(parts)


def test_nobody_acts_before_the_start_or_after_leaving(shop: Simulated) -> None:
    users = read(shop, "truth/users").drop_columns(["taste"])
    joined = all_events(shop).join(users, "user_id")
    assert 0.1 < users["leave_time"].null_count / len(users) < 0.9
    assert pc.all(pc.greater_equal(joined["time"], joined["start_time"])).as_py()
    assert pc.all(pc.less(joined["time"], joined["leave_time"])).as_py()
    end = START_US + OPTIONS.num_days * DAY_US
    assert pc.max(joined["time"]).cast(pa.int64()).as_py() < end


def test_new_items_and_new_markets_open_late_and_not_before(shop: Simulated) -> None:
    items, markets = read(shop, "truth/items"), read(shop, "truth/markets")
    joined = all_events(shop).drop_null().join(items, "item_id").join(markets, "market")
    assert pc.all(pc.greater_equal(joined["time"], joined["launch_time"])).as_py()
    assert pc.all(pc.greater_equal(joined["time"], joined["open_time"])).as_py()
    opening = markets["open_time"].to_pylist()
    assert opening[0] == opening[1] < opening[2] < opening[3]
    late = joined.filter(pc.greater(joined["launch_time"], joined["open_time"]))
    assert len(late) > 100
    assert set(markets["market"].to_pylist()) == set(joined["market"].to_pylist())


def test_a_product_has_a_title_in_the_language_of_each_market(shop: Simulated) -> None:
    items = read(shop, "truth/items").to_pylist()
    twins = {row["market"]: row for row in items if row["product"] == 0}
    assert list(twins) == ["DE", "FR", "IE", "ES"]
    assert len({row["title"] for row in twins.values()}) == 4
    assert len({(row["category"], row["brand"], row["price"]) for row in twins.values()}) == 1


def test_planted_errors_differ_from_what_is_right(shop: Simulated) -> None:
    written = {row["sku"]: row for row in read(shop, "raw/catalogue").to_pylist()}
    right = {row["item_id"]: row for row in read(shop, "truth/items").to_pylist()}
    errors = {row["item_id"]: row for row in read(shop, "truth/catalogue_errors").to_pylist()}
    names = {"category": "category", "brand": "brand", "price": "price_eur", "title": "name"}
    assert {row["field"] for row in errors.values()} == set(ERROR_SHARES)
    for item_id, row in written.items():
        wrong = {field for field in names if row[names[field]] != right[item_id][field]}
        planted = errors.get(item_id)
        assert wrong == ({planted["field"]} if planted else set())
        if planted:
            assert planted["written"] == str(row[names[planted["field"]]])
            assert planted["right"] == str(right[item_id][planted["field"]])


def test_a_swapped_title_is_of_another_category(world: World) -> None:
    errors = plant_errors(world.plan, world.items)
    wrong = errors.with_error("title")
    assert wrong.sum() == round(0.01 * len(world.items))
    category = world.items.category
    assert (category[errors.title_of[wrong]] != category[wrong]).all()
    assert (world.items.market[errors.title_of[wrong]] == world.items.market[wrong]).all()


def test_bots_view_much_and_never_search_or_buy(shop: Simulated) -> None:
    users = read(shop, "truth/users")
    bots = set(users.filter(users["is_bot"])["user_id"].to_pylist())
    assert 0 < len(bots) < 0.05 * len(users)
    clicks = read(shop, "raw/clickstream")
    by_bots = clicks.filter(pc.is_in(clicks["visitor"], pa.array(sorted(bots))))
    assert set(by_bots["action"].to_pylist()) == {"view"}
    assert not bots & set(read(shop, "raw/searches")["shopper"].to_pylist())
    assert not bots & set(read(shop, "raw/orders")["client"].to_pylist())


def test_every_query_means_one_category_and_its_item(shop: Simulated) -> None:
    searches = read(shop, "truth/searches")
    raw = read(shop, "raw/searches")
    assert searches["event_id"].cast(pa.int64()).equals(raw["search_no"])
    assert searches["query"].equals(raw["words"])
    meant: dict[str, set[str]] = {}
    for row in read(shop, "truth/queries").to_pylist():
        meant.setdefault(row["query"], set()).add(row["category"])
    items = {row["item_id"]: row["category"] for row in read(shop, "truth/items").to_pylist()}
    rows = searches.to_pylist()
    for row in rows:
        assert meant[row["query"]] == {row["intended_category"]}
        assert items[row["intended_item_id"]] == row["intended_category"]
    assert {row["kind"] for row in rows} == {"clean", "misspelt", "mixed"}


def test_changed_queries_keep_what_they_mean() -> None:
    queries = make_queries(0).queries
    clean = {one.text: one.category for one in queries if one.kind == "clean"}
    for one in queries:
        assert clean[one.clean] == one.category
        assert (one.text == one.clean) == (one.kind == "clean")
    mixed = {(one.clean, one.text) for one in queries if one.kind == "mixed"}
    assert ("turnschuhe rot", "turnschuhe red") in mixed


def test_a_promotion_multiplies_the_odds_of_buying_by_the_known_factor(
    world: World, block: Block
) -> None:
    views, visits = block.views, block.visits
    archetype = block.users.archetype[visits.user[views.visit]]
    for position, kind in enumerate(ARCHETYPES[:BOT]):
        chosen = (archetype == position) & views.in_cart & ~visits.is_need[views.visit]
        bought, promoted = views.is_bought[chosen], views.cut[chosen] > 0
        odds = [bought[promoted == flag].mean() for flag in (True, False)]
        ratio = odds[0] / (1 - odds[0]) * (1 - odds[1]) / odds[1]
        assert ratio == pytest.approx(kind.promotion_factor, rel=0.35), kind.name


def test_visits_fade_before_leaving_for_those_who_give_a_sign(block: Block) -> None:
    users, visits = block.users, block.visits
    left = users.leaves[visits.user] - (visits.at_us - START_US) / DAY_US
    stayed = users.leaves - users.starts > 2 * FADE_DAYS
    known = (users.leaves < 365) & stayed & ~users.is_bot
    share = {}
    for fades in (True, False):
        of_kind = (known & ((users.fade > 0) == fades))[visits.user]
        late = (of_kind & (left < FADE_DAYS / 2)).sum()
        early = (of_kind & (left >= 1.5 * FADE_DAYS) & (left < 2 * FADE_DAYS)).sum()
        share[fades] = late / early
    assert share[True] < 0.6 < 0.75 < share[False]


def test_needs_come_in_the_rhythm_of_their_category(block: Block) -> None:
    gaps = np.diff(block.staples.needs, axis=1) / block.staples.mean_gap[:, None]
    assert gaps.mean() == pytest.approx(1.0, abs=0.01)
    assert gaps.std() == pytest.approx(0.5, abs=0.01)


def test_seasons_move_what_is_viewed(world: World, block: Block) -> None:
    visits = block.visits
    free = ~visits.is_need & ~block.users.is_bot[visits.user]
    sun = visits.category[free] == world.shop.seasons[190].argmax()
    summer = np.abs(visits.day[free] - 190) < 45
    assert sun[summer].mean() > 2 * sun[~summer].mean()


def test_the_answer_key_is_right_in_the_mean_and_tells_buyers_apart(
    world: World, block: Block
) -> None:
    key = answer(world, block.users, block.staples, block.rates)
    views, visits = block.views, block.visits
    inside = views.is_bought & (views.checkout_us >= START_US + world.plan.cut_day * DAY_US)
    user = visits.user[views.visit[inside]]
    category = visits.category[views.visit[inside]]
    bought = np.zeros(block.users.taste.shape, dtype=bool)
    bought[user, category] = True
    truth, chance = bought[key.user].any(axis=1), key.purchase
    assert truth.mean() == pytest.approx(chance.mean(), abs=0.02)
    assert bought[key.user].mean() == pytest.approx(key.category.mean(), rel=0.05)
    sure = chance > 0.9
    assert truth[sure].mean() == pytest.approx(chance[sure].mean(), abs=0.02)
    unsure = (chance > 0.3) & (chance < 0.6)
    assert truth[unsure].mean() == pytest.approx(chance[unsure].mean(), abs=0.07)
    first = np.zeros(len(key.user), dtype=bool)
    pairs = set(zip(user, views.item[inside], strict=True))
    first = np.array([(u, i) in pairs for u, i in zip(key.user, key.item[:, 0], strict=True)])
    assert first.mean() == pytest.approx(key.item_chance[:, 0].mean(), abs=0.03)


def test_a_need_is_missed_as_often_as_drawn_gaps_say() -> None:
    rng = np.random.default_rng(0)
    gaps = rng.gamma(4, 20 / 4, (200_000, 12))
    needs = np.cumsum(gaps, axis=1)
    age = 15.0
    alive = needs[:, 0] > age
    inside = ((needs > age) & (needs <= age + 28)).sum(axis=1)[alive]
    one = {"age": np.array([age]), "days": np.array([28.0]), "mean_gap": np.array([20.0])}
    found = no_bought_need(chance=np.array([0.9]), **one)
    assert found[0] == pytest.approx((0.1**inside).mean(), abs=0.002)


def test_planted_dirt_is_counted(shop: Simulated) -> None:
    counts = json.loads((shop.company.parent / "truth" / "counts.json").read_text())
    orders = read(shop, "raw/orders")
    assert counts["simulated"] is True
    assert counts["rows"]["orders"] == len(orders)
    assert len(orders) - pc.count_distinct(orders["line_no"]).as_py() == counts["duplicates"] > 0
    broken = (
        orders["client"].null_count
        + pc.sum(pc.equal(orders["ordered_at"], "2024-13-45T25:61:00Z")).as_py()
    )
    assert broken == counts["quarantined"] > 0
    dirt = read(shop, "truth/dirt")
    assert counts["dirt"] == {
        row["values"]: row["counts"] for row in pc.value_counts(dirt["kind"]).to_pylist()
    }
    late = pq.read_table(next((shop.company.parent / "raw" / "orders").glob("late-*")))
    chosen = dirt.filter(pc.equal(dirt["kind"], "late"))["event_id"].to_pylist()
    assert set(map(str, late["line_no"].to_pylist())) <= set(chosen)


def test_the_readme_asks_for_the_time_that_the_answer_key_is_about(shop: Simulated) -> None:
    (cut,) = read(shop, "truth/answer_key")["cut_time"].unique().to_pylist()
    text = (shop.company.parent / "README.md").read_text()
    assert f"--as-of {cut:%Y-%m-%dT%H:%M:%SZ}" in text


def test_staff_leave_and_are_sick_more_often_before(shop: Simulated) -> None:
    staff, events = read(shop, "truth/staff"), read(shop, "raw/staff/events")
    joined = events.join(staff, "person", "user_id")
    gone = joined.filter(pc.is_valid(joined["leave_time"]))
    assert 0 < staff["leave_time"].null_count < len(staff)
    assert pc.all(pc.less(gone["at"], gone["leave_time"])).as_py()
    left = pc.subtract(gone["leave_time"], gone["at"]).cast(pa.int64()).to_numpy() / DAY_US
    sick = pc.equal(gone["what"], "sick_day").to_numpy(zero_copy_only=False)
    assert sick[left < 59].mean() > 1.5 * sick[left > 61].mean()


def test_everything_says_that_it_is_simulated(shop: Simulated) -> None:
    folder = shop.company.parent
    for path in folder.rglob("*.parquet"):
        assert pq.read_metadata(path).metadata[b"simulated"] == b"true", path
    assert "**Everything here is simulated.**" in (folder / "README.md").read_text()
    for description in (shop.company, shop.staff):
        company = load_company(description)
        assert company.name.startswith("simulated-")
        for table in company.tables:
            rows = pq.read_table(folder / str(table.source.path))
            for expression in (*table.columns.values(), *map(table.field_expression, table.fields)):
                assert set(expression.source_columns) <= set(rows.column_names)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_events": 0}, r"--events 0 cannot be simulated\. Give a number 1,000 or more"),
        ({"num_days": 59}, r"--days 59 cannot .* from 60 to 3,650"),
        ({"num_markets": 9}, r"--markets 9 cannot .* from 1 to 8"),
        ({"seed": -1}, r"--seed -1 cannot"),
        ({"num_users": 30_000}, r"--users 30,000 .* one at least\. Give a number from 1 to 20,000"),
        ({"num_events": 10**7, "num_users": 2}, r"--users 2 .* at most 100 a day for each user"),
        ({"num_items": 95}, r"--items 95 .* sells 24 categories\. Give a number from 96"),
    ],
)
def test_what_cannot_be_simulated_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        simulate(replace(OPTIONS, out=tmp_path, **changes))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(UserError, match=r"not an empty folder\. Give a new folder, or remove"):
        simulate(replace(OPTIONS, out=tmp_path))
    with pytest.raises(UserError, match="not an empty folder"):
        simulate(replace(OPTIONS, out=tmp_path / "mine.txt"))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_few_events_of_one_user_are_a_shop_too(tmp_path: Path) -> None:
    options = ["--events", "1000", "--users", "1", "--markets", "1", "--days", "60"]
    found = CliRunner().invoke(app, ["simulate", "--out", str(tmp_path / "shop"), *options])
    assert found.exit_code == 0, found.output
    assert "SIMULATED shop" in found.output
    assert "No customer, product or company in it is real" in found.output
    assert load_company(tmp_path / "shop" / "company.yaml").name == "simulated-shop-0"


def test_the_window_of_the_answer_key_is_the_last(shop: Simulated) -> None:
    cut = set(read(shop, "truth/answer_key")["cut_time"].cast(pa.int64()).to_pylist())
    assert cut == {START_US + (OPTIONS.num_days - WINDOW_DAYS) * DAY_US}
