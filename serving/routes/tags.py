"""POST /v1/tags."""

from __future__ import annotations

from fastapi import APIRouter

from behavior_model.predictor import Predictor
from serving.dependencies import State
from serving.problems import BODY_PROBLEMS, described
from serving.ranked import ranked_tags
from serving.schemas import RankedTag, TagRequest, TagResponse

router = APIRouter(responses=BODY_PROBLEMS | described(404))


@router.post("/v1/tags")
async def tags(request: TagRequest, state: State) -> TagResponse:
    """What customers would call a product, known or described in words."""

    def ask(predictor: Predictor) -> list[RankedTag]:
        if request.item_id is not None:
            ranking = predictor.tags([request.item_id], request.k)
        else:
            ranking = predictor.tags_of_texts([request.text or ""], request.k)
        return ranked_tags(ranking)

    return TagResponse(model_version=state.model_version, tags=await state.ask_model(ask))
