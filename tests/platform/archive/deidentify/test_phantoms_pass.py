"""The demo's pictures come through: their banner is gone, their tissue stays."""

from __future__ import annotations

import io

import numpy as np
import pytest

from sonoloop.platform.archive.deidentify.clean import clean_frames
from sonoloop.platform.archive.deidentify.config import DeidentifyConfig
from sonoloop.platform.archive.deidentify.masks import covered
from sonoloop.platform.archive.reading.open import open_instance
from sonoloop.platform.lexicon import Organ
from sonoloop.platform.phantoms.archive import PhantomConfig, PhantomGroup, build_study


@pytest.mark.parametrize("organ", ["breast", "kidney"])
def test_phantoms_are_not_quarantined_and_lose_next_to_nothing(organ: Organ) -> None:
    config = PhantomConfig(seed=3, groups=(PhantomGroup(organ=organ, scanner="B", count=2),), cine_share=0)
    for number in range(2):
        (_, data), *_ = build_study(config, number, organ, "B", number).files
        instance = open_instance(io.BytesIO(data), name="x")
        cleaned = clean_frames([instance.frame(0)], instance, DeidentifyConfig())
        texts = (mask.box for mask in cleaned.audits[0].masks if mask.why != "outside-regions")
        assert covered(texts, instance.rows, instance.columns).mean() < 0.03
        (region,) = instance.regions
        assert not np.any(cleaned.frames[0][: region.top])
