"""POST /v1/similar-items."""

from __future__ import annotations

from fastapi import APIRouter

from behavior_model.predictor import Predictor
from serving.dependencies import State
from serving.problems import BODY_PROBLEMS, described
from serving.ranked import ranked_items
from serving.schemas import RankedItem, SimilarItemsRequest, SimilarItemsResponse

router = APIRouter(responses=BODY_PROBLEMS | described(404))


@router.post("/v1/similar-items")
async def similar_items(request: SimilarItemsRequest, state: State) -> SimilarItemsResponse:
    """Items like one item, by what customers do or by what its text says."""

    def ask(predictor: Predictor) -> list[RankedItem]:
        if request.item_id is not None:
            ranking = predictor.similar_items([request.item_id], request.k, by=request.by)
        else:
            ranking = predictor.similar_to_texts([request.text or ""], request.k, by=request.by)
        return ranked_items(predictor, ranking)

    items = await state.ask_model(ask)
    return SimilarItemsResponse(model_version=state.model_version, by=request.by, items=items)
