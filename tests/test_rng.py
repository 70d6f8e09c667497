"""Random numbers: the generator's published vectors, and independence of streams."""

from __future__ import annotations

import numpy as np
import pytest

from arbgym.rng import normal2, philox, uniform2, uniform4

# Known answers of Philox 4x32-10, published with Random123 (Salmon et al., SC 2011)
KNOWN_ANSWERS = [
    ((0,) * 6, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 6, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("words", "expected"), KNOWN_ANSWERS)
def test_philox_known_answers(words: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert philox(*words) == expected


def test_uniforms_are_uniform_and_open() -> None:
    draws = np.array([uniform2(3, 1, block, 7) + uniform4(3, 1, block, 8) for block in range(20_000)])
    assert draws.min() > 0.0 and draws.max() < 1.0
    assert np.abs(draws.mean(axis=0) - 0.5).max() < 5.0 / np.sqrt(12 * len(draws))
    assert np.abs(draws.var(axis=0) - 1.0 / 12.0).max() < 0.002
    correlation = np.corrcoef(draws.T) - np.eye(draws.shape[1])
    assert np.abs(correlation).max() < 5.0 / np.sqrt(len(draws))


def test_normals_are_standard() -> None:
    draws = np.array([normal2(11, 0, block, 2) for block in range(40_000)]).ravel()
    assert abs(draws.mean()) < 0.02
    assert abs(draws.std() - 1.0) < 0.02
    assert abs(np.mean(draws**4) - 3.0) < 0.2


def test_every_part_of_the_counter_matters() -> None:
    base = uniform2(1, 2, 3, 4)
    others = [
        uniform2(2, 2, 3, 4),
        uniform2(1, 3, 3, 4),
        uniform2(1, 2, 4, 4),
        uniform2(1, 2, 3, 5),
        uniform2(1 + 2**32, 2, 3, 4),
    ]
    assert len({base, *others}) == 6
