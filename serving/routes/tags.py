"""POST /v1/tags."""

from __future__ import annotations

from fastapi import APIRouter

from serving.dependencies import State
from serving.ranked import ranked_tags
from serving.schemas import TagRequest, TagResponse

router = APIRouter()


@router.post("/v1/tags")
def tags(request: TagRequest, state: State) -> TagResponse:
    """What customers would call a product, known or described in words."""
    with state.model_slot() as predictor:
        if request.item_id is not None:
            ranking = predictor.tags([request.item_id], request.k)
        else:
            ranking = predictor.tags_of_texts([request.text or ""], request.k)
    return TagResponse(model_version=state.model_version, tags=ranked_tags(ranking))
