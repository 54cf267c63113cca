"""Nothing is reported to the makers of the packages that pretraining uses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

RUN = """
import sys
from pathlib import Path
from behavior_model.training.tracking import mlflow_run
from tests.rhythm_shop import shop_job, shop_recipe

assert "mlflow" not in sys.modules
with mlflow_run(shop_job(Path(sys.argv[1]), shop_recipe())) as log:
    log({"step": 1.0, "loss": 2.0})
from mlflow.telemetry.utils import is_telemetry_disabled
from mlflow.telemetry import get_telemetry_client
print(is_telemetry_disabled(), get_telemetry_client())
"""


def test_mlflow_reports_to_nobody(tmp_path: Path) -> None:
    told = ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "PYTEST_CURRENT_TEST", "CI")
    environment = {name: value for name, value in os.environ.items() if name not in told}
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path)],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["True", "None"]
    assert (tmp_path / "mlflow.db").is_file()
