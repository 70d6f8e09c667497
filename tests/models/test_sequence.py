"""The convolution over lags finds what lies in them, repeats itself, and never looks at a lag that is not there."""

from __future__ import annotations

import numpy as np
import pytest

from arbgym.models.exits import SCORES
from arbgym.models.sequence import SequenceExits, lag_columns
from tests.models.conftest import Rows, draw_rows

torch = pytest.importorskip("torch", reason="the extra train is not installed")


def small(rows: Rows, **changes: object) -> SequenceExits:
    return SequenceExits(rows.fields, **{"steps": 300, "batch": 256, "channels": 8, "hidden": 16, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def fitted(rows: Rows) -> SequenceExits:
    torch.set_num_threads(1)
    predictor = small(rows)
    predictor.fit(rows.features, rows.labels, rows.episodes)
    return predictor


def test_what_can_be_learned_is(fitted: SequenceExits) -> None:
    fresh = draw_rows(40, 50, seed=9)
    found = fitted.predict(fresh.features)
    for name in SCORES:
        assert np.corrcoef(getattr(found, name), getattr(fresh.labels, name))[0, 1] > 0.5


def test_a_fit_repeats_whatever_torch_drew_before(fitted: SequenceExits, rows: Rows) -> None:
    torch.manual_seed(1234)
    state = torch.random.get_rng_state()
    again = small(rows)
    again.fit(rows.features, rows.labels, rows.episodes)
    assert np.array_equal(again.scores(rows.features), fitted.scores(rows.features))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_it_computes_the_dilated_convolution_at_the_newest_moment(fitted: SequenceExits, rows: Rows) -> None:
    """The tree of pairs against the textbook: kernels of 2 with dilations 1, 2, 4, 8 over the whole sequence."""
    columns = lag_columns(rows.fields)
    assert [rows.fields[k].name for k in columns[0][-2:]] == ["return_lag_2", "return_lag_1"]
    x = torch.as_tensor(rows.features[:50])
    with torch.no_grad():
        values = x[:, torch.as_tensor(columns)]
        for k, join in enumerate(fitted.network.joins):
            padded = torch.nn.functional.pad(values, (2**k, 0))
            joined = torch.relu(torch.nn.functional.conv1d(padded, join.weight, join.bias, dilation=2**k))
            values = joined if k == 0 else joined + values
        expected = fitted.network.head(torch.cat([values[:, :, -1], x], dim=1))
    assert np.allclose(fitted.scores(rows.features[:50]), expected.numpy(), atol=1e-5)


def test_lags_that_do_not_fit_together_are_refused(rows: Rows) -> None:
    with pytest.raises(ValueError, match=r"return_lag_K has K = \[1, 2"):
        lag_columns([field for field in rows.fields if field.name != "return_lag_3"])
    with pytest.raises(ValueError, match=r"\[16, 15\] lags"):
        lag_columns([field for field in rows.fields if field.name != "imbalance_lag_16"])
    with pytest.raises(ValueError, match=r"K = \[\]"):
        SequenceExits(rows.fields[:6])


def test_a_watcher_ends_it_and_bad_rows_are_refused(rows: Rows) -> None:
    predictor = small(rows)
    with pytest.raises(ValueError, match="was not fitted"):
        predictor.scores(rows.features)
    steps: list[int] = []
    predictor.fit(rows.features, rows.labels, rows.episodes, lambda name, step, losses: steps.append(step) is None)
    assert steps == [50]
    with pytest.raises(ValueError, match="sell: every label is 0"):
        predictor.fit(rows.features, rows.labels._replace(sell=0.0 * rows.labels.sell), rows.episodes)
