"""Buy signals: from a token tape to the rows at whose close a position is bought.

A signal is any function ``(TokenTape) -> int64 rows``. It is causal: whether row t is an entry follows from rows up to t of its
token. Shipped ones leave a cool-down between two entries of a token and never buy where there is no liquidity or no row after.

    load_signal("momentum:window_s=30,least_return=0.1")(tape)
    load_signal("mypackage.mymodule:my_signal")(tape)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module
from inspect import signature

import numpy as np
from numpy.typing import NDArray

from arbgym.market.token_tape import AGE_S, BUY, PRICE, RESERVE, SELL, TokenTape

Rows = NDArray[np.int64]
Signal = Callable[[TokenTape], Rows]
_COOLDOWN_S = 7_200.0  # the horizon of new tokens


def every_launch(after_s: float = 30.0) -> Signal:
    """Each token once: at the first row of age ``after_s`` or more, s. Raises ValueError."""
    _require("after_s", after_s, 0.0)

    def chosen(rows: NDArray[np.float64], step_s: float) -> NDArray[np.bool_]:
        return np.asarray(rows[:, AGE_S] >= after_s)

    return _per_token(chosen, math.inf)


def volume_burst(
    window_s: float = 60.0,
    baseline_s: float = 600.0,
    factor: float = 3.0,
    least_quote: float = 0.0,
    cooldown_s: float = _COOLDOWN_S,
) -> Signal:
    """Where ``window_s`` of trading brought ``factor`` times the average volume of as long in the ``baseline_s`` before it.

    And more buys than sells, and ``least_quote`` of volume or more, in the tape's currency. Raises ValueError.
    """
    _require("window_s", window_s, 0.0, above=True)
    _require("baseline_s", baseline_s, 0.0, above=True)
    _require("factor", factor, 0.0, above=True)
    _require("least_quote", least_quote, 0.0)

    def chosen(rows: NDArray[np.float64], step_s: float) -> NDArray[np.bool_]:
        window, baseline = _steps(window_s, step_s), _steps(baseline_s, step_s)
        found = np.zeros(len(rows), np.bool_)
        if len(rows) < window + baseline:
            return found
        bought, sold = (_sums(rows[:, column]) for column in (BUY, SELL))
        ends = np.arange(window + baseline, len(rows) + 1)
        recent_buys, recent_sales = (held[ends] - held[ends - window] for held in (bought, sold))
        before = (bought + sold)[ends - window] - (bought + sold)[ends - window - baseline]
        recent = recent_buys + recent_sales
        usual = before * window / baseline
        found[ends - 1] = (recent >= factor * usual) & (recent_buys > recent_sales) & (recent >= max(least_quote, 1e-12))
        return found

    return _per_token(chosen, cooldown_s)


def momentum(window_s: float = 60.0, least_return: float = 0.2, cooldown_s: float = _COOLDOWN_S) -> Signal:
    """Where the price rose by ``least_return`` (0.2 is 20 %) or more within ``window_s``. Raises ValueError."""
    _require("window_s", window_s, 0.0, above=True)
    _require("least_return", least_return, -1.0, above=True)

    def chosen(rows: NDArray[np.float64], step_s: float) -> NDArray[np.bool_]:
        window = _steps(window_s, step_s)
        found = np.zeros(len(rows), np.bool_)
        price = rows[:, PRICE]
        found[window:] = price[window:] >= (1.0 + least_return) * price[:-window]
        return found

    return _per_token(chosen, cooldown_s)


SIGNALS: dict[str, Callable[..., Signal]] = {
    "every_launch": every_launch,
    "volume_burst": volume_burst,
    "momentum": momentum,
}


def load_signal(text: str) -> Signal:
    """A signal by its text: a shipped one's name, ``name:argument=number,...``, or ``package.module:function``.

    The function is itself the signal. Raises ValueError naming what is unknown and what is accepted.
    """
    name, _, rest = text.partition(":")
    if name in SIGNALS:
        accepted = list(signature(SIGNALS[name]).parameters)
        arguments: dict[str, float] = {}
        for part in filter(None, rest.split(",")):
            key, equals, value = (piece.strip() for piece in part.partition("="))
            try:
                number = float(value)
            except ValueError:
                number = math.nan
            if not equals or key not in accepted or math.isnan(number):
                raise ValueError(f"signal {text!r}: {part!r}; accepted are {', '.join(f'{one}=NUMBER' for one in accepted)}")
            arguments[key] = number
        return SIGNALS[name](**arguments)
    known = f"accepted are {', '.join(SIGNALS)} or package.module:function"
    if not rest:
        raise ValueError(f"signal {text!r}; {known}")
    try:
        found = getattr(import_module(name), rest)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"signal {text!r}: {error}; {known}") from error
    if not callable(found):
        raise ValueError(f"signal {text!r} is a {type(found).__name__}; accepted is a function from a TokenTape to rows")
    loaded: Signal = found
    return loaded


def _per_token(chosen: Callable[[NDArray[np.float64], float], NDArray[np.bool_]], cooldown_s: float) -> Signal:
    _require("cooldown_s", cooldown_s, 0.0)

    def signal(tape: TokenTape) -> Rows:
        wait = math.inf if math.isinf(cooldown_s) else max(1, math.ceil(cooldown_s / tape.step_s - 1e-9))
        entries: list[int] = []
        for start, end in zip(tape.starts[:-1].tolist(), tape.starts[1:].tolist(), strict=True):
            rows = tape.rows[start:end]
            candidates = np.flatnonzero(chosen(rows, tape.step_s) & (rows[:, RESERVE] > 0.0))
            free = 0.0
            for row in candidates[candidates < len(rows) - 1].tolist():
                if row >= free:
                    entries.append(start + row)
                    free = row + wait
        return np.array(entries, dtype=np.int64)

    return signal


def _steps(seconds: float, step_s: float) -> int:
    return max(1, round(seconds / step_s))


def _sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([[0.0], np.cumsum(values)])


def _require(name: str, value: float, least: float, above: bool = False) -> None:
    if not (value > least if above else value >= least):
        raise ValueError(f"{name} = {value}; accepted is {'above ' if above else ''}{least:g}{'' if above else ' or more'}")
