"""Rankings as the public contract shows them."""

from __future__ import annotations

from behavior_model.predictor import Predictor, Ranking
from serving.schemas import RankedItem, RankedTag


def ranked_items(predictor: Predictor, ranking: Ranking) -> list[RankedItem]:
    """The one list of a ranking, with what the catalogue says of each item."""
    cards = predictor.catalogue.cards(ranking.ids[0])
    return [
        RankedItem(item_id=one, rank=i + 1, score=score, title=card.title, category=card.category)
        for i, (one, score, card) in enumerate(
            zip(ranking.ids[0], ranking.scores[0], cards, strict=True)
        )
    ]


def ranked_categories(_: Predictor, ranking: Ranking) -> list[RankedItem]:
    """The one list of a ranking of categories; a category's id is its name."""
    return [
        RankedItem(item_id=one, rank=i + 1, score=score, title=one, category=one)
        for i, (one, score) in enumerate(zip(ranking.ids[0], ranking.scores[0], strict=True))
    ]


def ranked_tags(ranking: Ranking) -> list[RankedTag]:
    """The one list of a ranking of tags."""
    return [
        RankedTag(tag=one, rank=i + 1, score=score)
        for i, (one, score) in enumerate(zip(ranking.ids[0], ranking.scores[0], strict=True))
    ]
