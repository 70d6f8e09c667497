"""Random pools for property tests."""

from __future__ import annotations

from hypothesis import strategies as st

from arbgym.amm import ConcentratedPool
from arbgym.amm.tick_math import sqrt_price_x96_at_tick

SPACINGS = [(100, 1), (500, 10), (3000, 60), (10000, 200)]


@st.composite
def concentrated_pools(
    draw: st.DrawFn, around: int | None = None, in_range: bool = False, most_liquidity: int = 2**80
) -> ConcentratedPool:
    """A pool of overlapping positions around its price, with gaps unless ``in_range`` puts one of them over all.

    ``around``: its tick lies within 600 of this one; else anywhere within 300,000 of 0.
    """
    fee, spacing = draw(st.sampled_from(SPACINGS))
    tick = draw(st.integers(-300_000, 300_000) if around is None else st.integers(around - 600, around + 600))
    price = draw(st.integers(sqrt_price_x96_at_tick(tick), sqrt_price_x96_at_tick(tick + 1) - 1))
    pool = ConcentratedPool(sqrt_price_x96=price, tick=tick, liquidity=0, fee=fee, tick_spacing=spacing)
    centre = tick // spacing
    reach = 400
    if in_range:
        reach = max(1500 // spacing, 3)
        liquidity = draw(st.integers(most_liquidity // 2**30, most_liquidity // 2**10))
        pool.mint(tick_lower=(centre - reach) * spacing, tick_upper=(centre + reach) * spacing, liquidity=liquidity)
    for _ in range(draw(st.integers(1, 8))):
        low = centre + draw(st.integers(-reach, reach - 1))
        high = draw(st.integers(low + 1, centre + reach if in_range else low + reach))
        liquidity = draw(st.integers(1, most_liquidity))
        pool.mint(tick_lower=low * spacing, tick_upper=high * spacing, liquidity=liquidity)
    return pool
