"""Settings of the counter, validated when it starts (environment: `BFM_...`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipelines.workspace import Workspace


class ServingSettings(BaseSettings):
    """How one serving replica runs.

    Args:
        workspace: Folder with the bundle, the shelf and the live events.
        max_body_bytes: Longer request bodies are refused (413).
        max_state_age_days: Stored user state older than this at the prediction time counts as
            absent. None accepts any age.
        max_concurrent_predictions: Requests inside the model at once; the others wait.
        max_waiting_predictions: When so many wait, further ones are refused at once (503). Each
            holds its body and history in memory, but no thread.
        max_wait_s: After so long a wait a request is refused (503).
        torch_threads: Threads of one prediction.
        reload_seconds: How often to look for a renewed bundle, which then takes over without a
            restart; 0: never.
        admin_token: Erasing a user over HTTP needs it as a bearer token. None: whoever reaches the
            counter may erase.
    """

    model_config = SettingsConfigDict(env_prefix="BFM_", extra="ignore", frozen=True)

    workspace: Path
    max_body_bytes: Annotated[int, Field(ge=1_024)] = 1_048_576
    max_state_age_days: Annotated[float, Field(gt=0)] | None = None
    max_concurrent_predictions: Annotated[int, Field(ge=1)] = 2
    max_waiting_predictions: Annotated[int, Field(ge=1)] = 500
    max_wait_s: Annotated[float, Field(gt=0)] = 10.0
    torch_threads: Annotated[int, Field(ge=1)] = 1
    reload_seconds: Annotated[float, Field(ge=0)] = 30.0
    admin_token: Annotated[SecretStr, Field(min_length=16)] | None = None

    @property
    def opened(self) -> Workspace:
        """The workspace that is served."""
        return Workspace(self.workspace)
