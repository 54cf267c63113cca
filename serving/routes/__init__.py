"""One file per group of routes; a new group is one file and one line in `ROUTERS`."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter

from serving.routes import (
    embeddings,
    events,
    model,
    predictions,
    propensities,
    recommendations,
    search,
    similar_items,
    tags,
    users,
)

ROUTERS: Final[tuple[APIRouter, ...]] = (
    recommendations.router,
    search.router,
    predictions.router,
    propensities.router,
    tags.router,
    similar_items.router,
    embeddings.router,
    events.router,
    users.router,
    model.router,
)
