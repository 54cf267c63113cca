"""POST /v1/embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
from fastapi import APIRouter

from serving.dependencies import State
from serving.schemas import Embedding, EmbeddingRequest, EmbeddingResponse
from serving.state import AppState, ResolvedUser, as_of_micros

router = APIRouter()


@router.post("/v1/embeddings")
def embeddings(request: EmbeddingRequest, state: State) -> EmbeddingResponse:
    """Embeddings of users, or of items or a text: users compare among themselves, items and texts
    with one another."""
    made = {"user": _users, "item": _items, "text": _text}[request.entity](request, state)
    return EmbeddingResponse(
        model_version=state.model_version,
        entity=request.entity,
        embeddings=[Embedding(id=one, embedding=list(e)) for one, e in made.items()],
        unknown_ids=[one for one in dict.fromkeys(request.ids) if one not in made],
    )


def _users(request: EmbeddingRequest, state: AppState) -> dict[str, Any]:
    asked = {one: state.resolve(one, (), as_of_micros(request)) for one in request.ids}
    known = {one: user for one, user in asked.items() if not user.fallback}
    with state.model_slot() as predictor:
        return {one: _user(predictor.embed_users, user) for one, user in known.items()}


def _user(embed: Any, user: ResolvedUser) -> Any:
    return np.asarray(embed(user.histories, user.times_us)[0]).tolist()


def _items(request: EmbeddingRequest, state: AppState) -> dict[str, Any]:
    predictor = state.predictor
    known = [one for one in dict.fromkeys(request.ids) if one in predictor.vocabulary.item_idx_of]
    rows = predictor.embed_items(known)
    return {one: row.tolist() for one, row in zip(known, rows, strict=True)}


def _text(request: EmbeddingRequest, state: AppState) -> dict[str, Any]:
    text = request.text or ""
    with state.model_slot() as predictor:
        return {text: predictor.embed_texts([text])[0].tolist()}
