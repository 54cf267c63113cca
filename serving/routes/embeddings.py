"""POST /v1/embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool as in_thread

from serving.dependencies import State
from serving.schemas import Embedding, EmbeddingRequest, EmbeddingResponse
from serving.state import AppState, ResolvedUser, as_of_micros

router = APIRouter()


@router.post("/v1/embeddings")
async def embeddings(request: EmbeddingRequest, state: State) -> EmbeddingResponse:
    """Embeddings of users, or of items or a text: users compare among themselves, items and texts
    with one another."""
    made = await {"user": _users, "item": _items, "text": _text}[request.entity](request, state)
    return EmbeddingResponse(
        model_version=state.model_version,
        entity=request.entity,
        embeddings=[Embedding(id=one, embedding=list(e)) for one, e in made.items()],
        unknown_ids=[one for one in dict.fromkeys(request.ids) if one not in made],
    )


async def _users(request: EmbeddingRequest, state: AppState) -> dict[str, Any]:
    def resolve() -> dict[str, ResolvedUser]:
        return {one: state.resolve(one, (), as_of_micros(request)) for one in request.ids}

    asked = await in_thread(resolve)
    known = {one: user for one, user in asked.items() if not user.fallback}
    return await state.ask_model(
        lambda predictor: {one: _user(predictor.embed_users, user) for one, user in known.items()}
    )


def _user(embed: Any, user: ResolvedUser) -> Any:
    return np.asarray(embed(user.histories, user.times_us)[0]).tolist()


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
