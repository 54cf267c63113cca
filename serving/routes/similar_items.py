"""POST /v1/similar-items."""

from __future__ import annotations

from fastapi import APIRouter

from serving.dependencies import State
from serving.ranked import ranked_items
from serving.schemas import SimilarItemsRequest, SimilarItemsResponse

router = APIRouter()


@router.post("/v1/similar-items")
def similar_items(request: SimilarItemsRequest, state: State) -> SimilarItemsResponse:
    """Items like one item, by what customers do or by what its text says."""
    with state.model_slot() as predictor:
        if request.item_id is not None:
            ranking = predictor.similar_items([request.item_id], request.k, by=request.by)
        else:
            ranking = predictor.similar_to_texts([request.text or ""], request.k, by=request.by)
    return SimilarItemsResponse(
        model_version=state.model_version, by=request.by, items=ranked_items(predictor, ranking)
    )
