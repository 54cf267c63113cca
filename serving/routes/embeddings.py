"""POST /v1/embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool as in_thread

from behavior_model.embedding import BATCH_USERS
from behavior_model.predictor import Predictor
from pipelines.tokens.history import stacked
from serving.dependencies import State
from serving.problems import BODY_PROBLEMS
from serving.schemas import Embedding, EmbeddingRequest, EmbeddingResponse
from serving.state import AppState, ResolvedUser, as_of_micros

router = APIRouter(responses=BODY_PROBLEMS)


@router.post("/v1/embeddings")
async def embeddings(request: EmbeddingRequest, state: State) -> EmbeddingResponse:
    """Embeddings of users, or of items or a text: users compare among themselves, items and texts
    with one another. Many users take the model a few at a time, so that others get between."""
    made = await {"user": _users, "item": _items, "text": _text}[request.entity](request, state)
    return EmbeddingResponse(
        model_version=state.model_version,
        entity=request.entity,
        embeddings=[Embedding(id=one, embedding=list(e)) for one, e in made.items()],
        unknown_ids=[one for one in dict.fromkeys(request.ids) if one not in made],
    )


async def _users(request: EmbeddingRequest, state: AppState) -> dict[str, Any]:
    asked = await in_thread(state.resolve_all, request.ids, as_of_micros(request))
    known = [user for user in asked.values() if not user.fallback]
    made: dict[str, Any] = {}
    for start in range(0, len(known), BATCH_USERS):
        made |= await state.ask_model(partial(_embedded, known[start : start + BATCH_USERS]))
    return made


def _embedded(users: Sequence[ResolvedUser], predictor: Predictor) -> dict[str, Any]:
    histories = stacked([user.histories for user in users])
    times_us = np.concatenate([user.times_us for user in users])
    rows = predictor.embed_users(histories, times_us).tolist()
    return dict(zip(histories.user_ids, rows, strict=True))


async def _items(request: EmbeddingRequest, state: AppState) -> dict[str, Any]:
    predictor = state.predictor
    known = [one for one in dict.fromkeys(request.ids) if one in predictor.vocabulary.item_idx_of]
    rows = await in_thread(predictor.embed_items, known)
    return {one: row.tolist() for one, row in zip(known, rows, strict=True)}


async def _text(request: EmbeddingRequest, state: AppState) -> dict[str, Any]:
    text = request.text or ""
    return await state.ask_model(
        lambda predictor: {text: predictor.embed_texts([text])[0].tolist()}
    )
