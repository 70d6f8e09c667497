"""Observation and action schemas: decoding of the three encodings, hashes, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import arbgym
from arbgym.engine import load_definition
from arbgym.spec import ENCODINGS, Choice, Encoding, Field, action_space, action_tables, decode, encode, schema_hash

ROUTE = Choice("route", "rank", (0.0, 1.0, 2.0), "which", (1.0,), ordered=False)
SIZE = Choice("size", "1", (0.25, 0.5, 1.0), "how much", (1.0,))
BID = Choice("bid", "1", (0.1, 0.5, 0.9), "tip", (0.1, 0.9))
CHOICES = (ROUTE, SIZE, BID)


def test_multidiscrete_indexes_the_values() -> None:
    decisions = decode(CHOICES, "multidiscrete", np.array([[0, 0, 0], [2, 1, 2]]))
    assert decisions.tolist() == [[0.0, 0.25, 0.1], [2.0, 0.5, 0.9]]


def test_discrete_enumerates_waiting_and_the_product_of_flat_values() -> None:
    decisions = decode(CHOICES, "discrete", np.arange(3))
    assert decisions.tolist() == [[0.0, 1.0, 0.1], [1.0, 1.0, 0.1], [1.0, 1.0, 0.9]]
    assert action_space(CHOICES, "discrete").n == 3


@given(st.lists(st.floats(-1.0, 1.0, width=32), min_size=3, max_size=3))
def test_continuous_stays_within_the_values(action: list[float]) -> None:
    decision = decode(CHOICES, "continuous", np.array([action], dtype=np.float32))[0]
    assert decision[0] in ROUTE.values
    assert 0.25 <= decision[1] <= 1.0 and 0.1 <= decision[2] <= 0.9


def test_continuous_ends_are_the_first_and_last_value() -> None:
    decisions = decode(CHOICES, "continuous", np.array([[-1, -1, -1], [1, 1, 1], [0, 0, 0]], dtype=np.float32))
    assert decisions.tolist() == [[0.0, 0.25, 0.1], [2.0, 1.0, 0.9], [1.0, 0.5, 0.5]]


def test_the_hash_changes_with_any_part() -> None:
    changed = Choice("bid", "1", (0.1, 0.5, 0.9), "tip.", (0.1, 0.9))
    assert schema_hash(CHOICES) != schema_hash((ROUTE, SIZE, changed))
    assert schema_hash(CHOICES) == schema_hash(list(CHOICES))


@pytest.mark.parametrize(
    "build",
    [
        lambda: Field("x", "1", 0.0, 0.0, 1.0, ""),
        lambda: Field("x", "1", 1.0, 1.0, 1.0, ""),
        lambda: Choice("x", "1", (1.0, 0.5), "", (1.0,)),
        lambda: Choice("x", "1", (0.5, 1.0), "", (2.0,)),
        lambda: Choice("x", "1", (0.5, 1.0), "", (1.0,), labels=("only",)),
    ],
)
def test_bad_parts_are_refused_by_name(build: object) -> None:
    with pytest.raises(ValueError, match="x"):
        build()  # type: ignore[operator]


def test_an_unknown_encoding_is_refused() -> None:
    with pytest.raises(ValueError, match="multidiscrete, discrete, continuous"):
        action_tables(CHOICES, "box")  # type: ignore[arg-type]
    assert len(ENCODINGS) == 3


@given(data=st.data())
@pytest.mark.parametrize("id_", sorted(arbgym.ENVIRONMENTS))
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_encode_is_the_inverse_of_decode(id_: str, encoding: Encoding, data: st.DataObject) -> None:
    """Whatever an encoded action means, encoding that meaning gives an action that means the same."""
    choices = load_definition(arbgym.ENVIRONMENTS[id_]).action
    space = action_space(choices, encoding)
    space.seed(data.draw(st.integers(0, 2**31 - 1)))
    actions = np.stack([np.atleast_1d(space.sample()) for _ in range(64)])
    meant = decode(choices, encoding, actions)
    again = decode(choices, encoding, encode(choices, encoding, meant))
    if encoding == "discrete":  # a flat list may name one decision twice; waiting is waiting
        waiting = meant[:, 0] == choices[0].values[0]
        assert np.array_equal(again[~waiting], meant[~waiting]) and (again[waiting, 0] == choices[0].values[0]).all()
    else:
        assert np.allclose(again, meant, rtol=1e-6, atol=1e-6)
