"""The query that needs no training: the decayed mean of what was taken, in one's own segment."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from behavior_model.benchmark.interaction_files import read_interactions
from behavior_model.benchmark.sequences import encode, pack
from behavior_model.model.resemblance import Resemblance
from tests.ring_shop import LENGTH, write_shop


def test_a_position_reads_itself_and_its_own_past_alone(tmp_path: Path) -> None:
    encoded = encode(read_interactions(*write_shop(tmp_path)))
    stops = np.asarray([LENGTH, 2 * LENGTH])
    batch = pack(encoded, stops - LENGTH, stops, 2 * LENGTH)
    torch.manual_seed(0)
    items = F.normalize(torch.randn(*batch.items_BL.shape, 5), dim=-1)
    resemblance = Resemblance()
    found = resemblance(batch, items).detach().flatten(0, 1)[batch.event_flat]
    taken = items.flatten(0, 1)[batch.event_flat]
    decay = torch.sigmoid(resemblance.decay_logit.detach())
    for start in (0, LENGTH):
        mean = torch.zeros(5)
        for row in range(start, start + LENGTH):
            mean = decay * mean + taken[row]
            expected = resemblance.gain.detach() * F.normalize(mean, dim=0)
            torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-5)
