"""What a process has held at most."""

from __future__ import annotations

import resource
import sys
from typing import Final

_RSS_UNIT: Final = 1 if sys.platform == "darwin" else 1_024


def peak_memory_bytes() -> int:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT
