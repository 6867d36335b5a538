"""The echo's statistics and what depth, gain and machine do to it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sonoloop.platform.phantoms.case import draw_case
from sonoloop.platform.phantoms.scanners import MACHINES, Acquisition, Machine
from sonoloop.platform.phantoms.speckle import compress, envelope
from sonoloop.platform.phantoms.view import Float

RAYLEIGH_SNR = 1.913  # sqrt(pi / (4 - pi))


def _acquisition(machine: Machine) -> Acquisition:
    return replace(draw_case(0, 0, "breast", "B").acquisition, machine=machine)


def _uniform(acquisition: Acquisition, shift: tuple[int, int] = (0, 0)) -> Float:
    shape = acquisition.view.num_samples, acquisition.view.num_beams
    return envelope(np.ones(shape, np.float32), np.zeros(shape, np.float32), acquisition, 3, shift)


@pytest.mark.parametrize("machine", MACHINES["B"], ids=lambda machine: machine.model)
def test_the_envelope_of_uniform_tissue_is_rayleigh_distributed(machine: Machine) -> None:
    values = _uniform(_acquisition(machine))
    assert np.square(values).mean() == pytest.approx(1.0, abs=0.08)
    assert values.mean() / values.std() == pytest.approx(RAYLEIGH_SNR, abs=0.08)
    below_half = (values < 0.5).mean()  # Rayleigh with mean square 1: 1 - exp(-1/4)
    assert below_half == pytest.approx(1 - np.exp(-0.25), abs=0.03)


def test_compounding_smooths_the_speckle_by_the_root_of_its_looks() -> None:
    values = _uniform(_acquisition(MACHINES["A"][0]))
    assert values.mean() / values.std() == pytest.approx(RAYLEIGH_SNR * np.sqrt(2), abs=0.12)


def test_speckle_is_coarser_on_kind_b_and_away_from_the_focus() -> None:
    def width(values: Float) -> float:
        centred = values - values.mean()
        return float((centred[:, 1:] * centred[:, :-1]).mean() / centred.var())

    fine, coarse = (_uniform(_acquisition(MACHINES[kind][0])) for kind in ("A", "B"))
    assert width(coarse) > width(fine) + 0.1
    focus = int(_acquisition(MACHINES["A"][0]).focus * len(fine))
    assert width(fine[-60:]) > width(fine[focus - 30 : focus + 30]) + 0.05


def test_speckle_moves_with_the_tissue() -> None:
    acquisition = _acquisition(MACHINES["B"][0])
    still, moved = _uniform(acquisition), _uniform(acquisition, (0, 9))
    rows, num = slice(100, 200), still.shape[1]
    ahead = np.corrcoef(still[rows, 30 : num - 30].ravel(), moved[rows, 21 : num - 39].ravel())[0, 1]
    unmoved = np.corrcoef(still[rows, 30 : num - 30].ravel(), moved[rows, 30 : num - 30].ravel())[0, 1]
    assert ahead > 0.95
    assert abs(unmoved) < 0.15


def test_gain_brightens_and_attenuation_darkens_with_depth() -> None:
    acquisition = replace(_acquisition(MACHINES["B"][1]), gain_db=0.0, attenuation_db=0.0, noise_db=-60.0)
    values, none = _uniform(acquisition), np.zeros((1, 1), np.float32)
    plain = compress(values, none, acquisition)
    assert compress(values, none, replace(acquisition, gain_db=6.0)).mean() > plain.mean() + 0.05
    faded = compress(values, none, replace(acquisition, attenuation_db=4.0))
    assert plain[:20].mean() - faded[:20].mean() < 0.03
    assert plain[-20:].mean() - faded[-20:].mean() > 0.12
