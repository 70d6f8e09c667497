"""The executor contract on a real chain with real pools, and its Python face."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from hashlib import sha256
from math import isqrt
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("web3", reason='web3 is missing: pip install "arbgym[live]"')

from eth_abi.abi import encode as abi_encode
from eth_utils.crypto import keccak
from hypothesis import example, given, settings
from hypothesis import strategies as st

from arbgym.amm import ConcentratedPool, ConstantProductPool, PoolError
from arbgym.amm.tick_math import tick_at_sqrt_price_x96
from arbgym.live.executor import (
    DRY_RUN_ADDRESS,
    FUNDINGS,
    Leg,
    Route,
    Simulator,
    WouldRevert,
    artefact,
    decode,
    encode,
    revert_reason,
    runtime_code,
)
from arbgym.live.terms import Refused, Unknown
from arbgym.market.lender import LENDERS, aave_premium_raw
from tests.chain.anvil import MODULES, Anvil
from tests.chain.conftest import chain_packages  # noqa: F401
from tests.live.executor_world import FAR, NODE_OPTIONS, World

ROOT = Path(__file__).resolve().parents[2]
CONTRACTS = ROOT / "arbgym" / "live" / "contracts"
# Buys low and sells high; the quote token is token1. Reversed, they buy token1 dear, that is token0 cheap.
UPWARD = [("v2_low", "v3_low"), ("v3_low", "v2_high"), ("v2_low", "v2_high"), ("v3_low", "v3_high")]
CYCLES = [(names, 1) for names in UPWARD] + [((second, first), 0) for first, second in UPWARD]
NOBODY = "0x" + 40 * "0"
TRUE = "0x" + 63 * "0" + "1"
LOANS = {"balancer_v2": 0, "morpho_blue": 0, "aave_v3": 5, "maker": 5}


@pytest.fixture(scope="module")
def deployed(chain_packages: None) -> Iterator[World]:  # noqa: F811
    """One chain for the module."""
    anvil = Anvil(*NODE_OPTIONS)
    yield World(anvil)
    anvil.kill()


@pytest.fixture
def world(deployed: World) -> Iterator[World]:
    """The chain, which forgets what the test did to it."""
    before = deployed.anvil.call("evm_snapshot")
    yield deployed
    deployed.anvil.call("evm_revert", before)


def spent_and_got(pool: ConstantProductPool | ConcentratedPool, amount: int, zero_for_one: bool) -> tuple[int, int]:
    if isinstance(pool, ConcentratedPool):
        result = pool.swap(amount_specified=amount, zero_for_one=zero_for_one)
    else:
        result = pool.swap(amount_in=amount, zero_for_one=zero_for_one)
    return result.amount_in, result.amount_out


def predicted(world: World, names: tuple[str, ...], quote: int, amount: int) -> int:
    """What the exact models say that a cycle gains before any loan's fee."""
    spent = None
    for place, name in enumerate(names):
        taken, amount = spent_and_got(world.model(name), amount, (place + quote) % 2 == 0)
        spent = taken if spent is None else spent
    assert spent is not None
    return amount - spent


def custom(signature: str, *words: int) -> str:
    return "0x" + keccak(text=signature)[:4].hex() + "".join(f"{word:064x}" for word in words)


def not_profitable(gain: int, wanted: int) -> str:
    return custom("NotProfitable(uint256,uint256)", gain, wanted)


def call(name: str, *arguments: Any) -> str:
    """Calldata of a function of the executor."""
    (entry,) = (entry for entry in artefact()["abi"] if entry.get("name") == name)
    kinds = [kind_of(argument) for argument in entry["inputs"]]
    return selector(f"{name}({','.join(kinds)})") + abi_encode(kinds, arguments).hex()


def kind_of(argument: dict[str, Any]) -> str:
    """An argument's type as a signature writes it."""
    parts = ",".join(kind_of(part) for part in argument.get("components", []))
    return str(argument["type"]).replace("tuple", f"({parts})")


def selector(signature: str) -> str:
    return "0x" + keccak(text=signature)[:4].hex()


# ------------------------------------------------------------------------------------------------------------------ profit
@pytest.mark.parametrize(("names", "quote"), CYCLES)
def test_models_simulation_and_chain_agree_to_the_unit(world: World, names: tuple[str, ...], quote: int) -> None:
    amount = 5 * 10**21
    expected = predicted(world, names, quote, amount)
    assert expected > 0
    route = world.flash_swap(names, quote, amount, minimum_profit_raw=expected)
    assert world.simulate(route) == expected
    assert world.send(encode(route))["status"] == 1
    gained = [0, 0]
    gained[quote] = expected
    assert world.balances(world.owner) == tuple(gained)
    assert world.balances(world.executor.address) == (0, 0)


def test_ticks_are_crossed(world: World) -> None:
    sold = world.model("v3_high")
    assert isinstance(sold, ConcentratedPool)
    bought = spent_and_got(world.model("v3_low"), 5 * 10**21, False)[1]
    assert sold.quote(amount_specified=bought, zero_for_one=True).ticks_crossed >= 2


@settings(max_examples=40, deadline=None, derandomize=True)
@given(cycle=st.sampled_from(CYCLES), amount=st.integers(0, 23).flatmap(lambda power: st.integers(1, 10**power)))
@example(cycle=CYCLES[0], amount=1)
def test_any_amount_is_told_as_the_models_tell_it(deployed: World, cycle: tuple[tuple[str, ...], int], amount: int) -> None:
    names, quote = cycle
    route = deployed.flash_swap(names, quote, amount)
    try:
        expected = predicted(deployed, names, quote, amount)
    except PoolError:
        with pytest.raises(WouldRevert):
            deployed.simulate(route)
        return
    if expected >= 0:
        assert deployed.simulate(route) == expected
    else:
        with pytest.raises(WouldRevert, match="a gain of 0 raw where 0 was wanted"):
            deployed.simulate(route)


@pytest.mark.parametrize("funding", LOANS)
@pytest.mark.parametrize("names", UPWARD)
def test_every_lender_is_repaid_with_its_fee(world: World, funding: str, names: tuple[str, ...]) -> None:
    amount = 5 * 10**21 + 999
    lender = world.aave if LOANS[funding] else world.lender
    fee = aave_premium_raw(amount, LOANS[funding])
    expected = predicted(world, names, 1, amount) - fee
    route = Route(funding, lender.address.lower(), amount, expected, FAR, world.legs(names, 1))
    before = world.balances(lender.address)
    assert world.simulate(route) == expected
    assert world.send(encode(route))["status"] == 1
    assert world.balances(world.owner) == (0, expected)
    assert world.balances(lender.address) == (before[0], before[1] + fee)
    assert world.balances(world.executor.address) == (0, 0)
    assert world.tokens[1].functions.allowance(world.executor.address, lender.address).call() == 0
    greedy = Route(funding, lender.address.lower(), amount, expected + 1, FAR, route.legs)
    assert world.refused(encode(greedy)).startswith(custom("NotProfitable(uint256,uint256)"))


def test_a_fee_is_paid_to_balancer_where_its_vault_asks_for_one(world: World) -> None:
    amount = 5 * 10**21
    expected = predicted(world, ("v2_low", "v3_low"), 1, amount) - aave_premium_raw(amount, 5)
    route = Route("balancer_v2", world.aave.address.lower(), amount, 0, FAR, world.legs(("v2_low", "v3_low"), 1))
    assert world.simulate(route) == expected


@pytest.mark.parametrize("names", [("v2_low", "v3_low", "v2_high", "v3_high"), ("v3_low", "v2_high", "v2_low", "v3_high")])
def test_longer_cycles(world: World, names: tuple[str, ...]) -> None:
    amount = 10**19
    expected = predicted(world, names, 1, amount)
    assert expected > 0
    route = world.flash_swap(names, 1, amount, expected)
    assert world.simulate(route) == expected
    assert world.send(encode(route))["status"] == 1
    assert world.balances(world.owner) == (0, expected)
    assert world.balances(world.executor.address) == (0, 0)


@pytest.mark.parametrize("first", [True, False])
def test_pancakeswap_s_v3_pool(world: World, first: bool) -> None:
    """Which makes the same callback under another name."""
    price, liquidity = isqrt(206 * 2**192 // 100), 10**24
    address = world.market.pancake_pool(500, 10, price)
    world.market.mint_v3(address, 6000, 8400, liquidity)
    ticks = {6000: liquidity, 8400: -liquidity}
    tick = tick_at_sqrt_price_x96(price)
    pool = ConcentratedPool(sqrt_price_x96=price, tick=tick, liquidity=liquidity, fee=500, tick_spacing=10, ticks=ticks)
    models = [pool, world.model("v2_high")] if first else [world.model("v2_low"), pool]
    amount = 10**20
    bought = spent_and_got(models[0], amount, False)[1]
    expected = spent_and_got(models[1], bought, True)[1] - amount
    leg = Leg(address.lower(), world.tokens[0 if not first else 1].address.lower(), "v3", not first, 500)
    legs = (leg, world.leg("v2_high", True)) if first else (world.leg("v2_low", False), leg)
    route = Route(f"uniswap_{legs[0].kind}_flash_swap", None, amount, expected, FAR, legs)
    assert expected > 0
    assert world.simulate(route) == expected


@pytest.mark.parametrize("funding", ["uniswap_v2_flash_swap", "morpho_blue"])
def test_what_a_pool_without_liquidity_leaves_goes_to_the_owner(world: World, funding: str) -> None:
    names, amount = ("v2_low", "v3_thin"), 5 * 10**18
    world.market.swap_v2(world.addresses["v2_low"], True, 10**25, 18 * 10**23)  # token0 is very cheap there now
    bought = spent_and_got(world.model("v2_low"), amount, False)[1]
    taken, got = spent_and_got(world.model("v3_thin"), bought, True)
    assert 0 < taken < bought
    lender = world.lender.address.lower() if FUNDINGS[funding] else None
    route = Route(funding, lender, amount, 0, FAR, world.legs(names, 1))
    assert world.simulate(route) == got - amount
    assert world.send(encode(route))["status"] == 1
    assert world.balances(world.owner) == (bought - taken, got - amount)
    assert world.balances(world.executor.address) == (0, 0)


@pytest.mark.parametrize(("names", "quote"), CYCLES)
def test_what_was_there_before_is_no_profit_and_pays_no_loss(world: World, names: tuple[str, ...], quote: int) -> None:
    amount = 5 * 10**21
    expected = predicted(world, names, quote, amount)
    for token in world.tokens:
        world.mint(token, world.executor.address, 10**24)
    assert world.refused(encode(world.flash_swap(names, quote, amount, expected + 1))) == not_profitable(expected, expected + 1)
    backward = tuple(reversed(names))
    assert world.refused(encode(world.flash_swap(backward, quote, amount))) == not_profitable(0, 0)
    for funding in LOANS:
        route = Route(funding, world.lender.address.lower(), amount, 0, FAR, world.legs(backward, quote))
        assert world.refused(encode(route)) == not_profitable(0, 0)
    assert world.send(encode(world.flash_swap(names, quote, amount, expected)))["status"] == 1
    given = [10**24, 10**24]
    given[quote] += expected
    assert world.balances(world.owner) == tuple(given)
    assert world.balances(world.executor.address) == (0, 0)


def test_an_unprofitable_transaction_changes_nothing_but_the_fee(world: World) -> None:
    names = ("v2_low", "v3_low")
    expected = predicted(world, names, 1, 10**21)
    route = world.flash_swap(names, 1, 10**21, expected + 1)
    pools = [repr(world.model(name)) for name in names]
    with pytest.raises(WouldRevert, match=f"NotProfitable: a gain of {expected} raw where {expected + 1} was wanted") as raised:
        world.simulate(route)
    assert raised.value.data == not_profitable(expected, expected + 1)
    assert world.send(encode(route))["status"] == 0
    assert [repr(world.model(name)) for name in names] == pools
    assert world.balances(world.owner) == (0, 0)


def test_the_last_block_is_the_last(world: World) -> None:
    names, amount = ("v2_low", "v3_low"), 10**21
    now = world.anvil.block_number
    in_time = world.flash_swap(names, 1, amount, last_block=now)
    assert world.simulate(in_time) > 0
    late = encode(world.flash_swap(names, 1, amount, last_block=now - 1))
    assert world.refused(late) == custom("TooLate(uint256,uint256)", now, now - 1)
    # mined in the next block
    assert world.send(encode(in_time))["status"] == 0
    assert world.send(encode(world.flash_swap(names, 1, amount, last_block=now + 2)))["status"] == 1


# ------------------------------------------------------------------------------------------------------------------- tokens
@pytest.mark.parametrize("funding", ["uniswap_v2_flash_swap", *LOANS])
def test_tokens_that_answer_nothing(world: World, funding: str) -> None:
    quote, base = sorted((world.silent_token() for _ in range(2)), key=lambda token: int(token.address, 16))
    for token in (quote, base):
        world.mint(token, world.lender.address, 10**24)
        world.mint(token, world.aave.address, 10**24)
    legs, reserves = [], [(10**24, 2 * 10**24), (3 * 10**24, 5 * 10**24)]
    for place, (reserve0, reserve1) in enumerate(reserves):
        factory = world.market.deploy("UniswapV2Factory", world.market.web3.eth.default_account)
        world.market.send(factory.functions.createPair(quote.address, base.address))
        pair = factory.functions.getPair(quote.address, base.address).call()
        world.mint(quote, pair, reserve0)
        world.mint(base, pair, reserve1)
        world.market.send(world.market.at("UniswapV2Pair", pair).functions.mint(world.market.web3.eth.default_account))
        token_in = (quote if place == 0 else base).address.lower()
        legs.append(Leg(pair.lower(), token_in, "v2", place == 0, 3000))
    amount = 10**20
    bought = ConstantProductPool(*reserves[0]).quote(amount_in=amount, zero_for_one=True).amount_out
    sold = ConstantProductPool(*reserves[1]).quote(amount_in=bought, zero_for_one=False).amount_out
    lender = world.aave if LOANS.get(funding) else world.lender
    expected = sold - amount - aave_premium_raw(amount, LOANS.get(funding, 0))
    assert expected > 0
    route = Route(funding, lender.address.lower() if FUNDINGS[funding] else None, amount, expected, FAR, tuple(legs))
    for _ in range(2):  # the second finds no allowance in its way
        before = world.anvil.call("evm_snapshot")
        assert world.send(encode(route))["status"] == 1
        assert quote.functions.balanceOf(world.web3.to_checksum_address(world.owner)).call() == expected
        assert quote.functions.allowance(world.executor.address, lender.address).call() == 0
        world.anvil.call("evm_revert", before)


def test_a_token_that_says_no_is_believed(world: World) -> None:
    world.tell(selector("balanceOf(address)"), [], "0x" + f"{5:064x}")
    refused = custom("TokenRefused(address)", int(world.puppet.address, 16))
    sweep = call("sweep", world.puppet.address)
    for answer, accepted in [("0x" + 64 * "0", False), (TRUE, True), ("0x", True)]:
        world.tell(selector("transfer(address,uint256)"), [], answer)
        if accepted:
            assert world.send(sweep)["status"] == 1
        else:
            assert world.refused(sweep) == refused


def test_sweep_hands_all_to_the_owner(world: World) -> None:
    world.mint(world.tokens[0], world.executor.address, 7)
    for token in world.tokens:  # the second has nothing to hand over
        assert world.send(call("sweep", token.address))["status"] == 1
    assert world.balances(world.owner) == (7, 0)
    world.anvil.call("anvil_setBalance", world.executor.address, hex(10**18))
    before = int(world.anvil.call("eth_getBalance", world.owner, "latest"), 16)
    receipt = world.send(call("sweep", NOBODY))
    paid = receipt["gasUsed"] * receipt["effectiveGasPrice"]
    assert int(world.anvil.call("eth_getBalance", world.owner, "latest"), 16) == before + 10**18 - paid
    assert int(world.anvil.call("eth_getBalance", world.executor.address, "latest"), 16) == 0


def test_the_chains_own_coin_is_not_taken(world: World) -> None:
    with pytest.raises(RuntimeError, match="revert"):
        world.anvil.call("eth_call", {"from": world.owner, "to": world.executor.address, "value": "0x1"}, "latest")


# ------------------------------------------------------------------------------------------------------------------ attacks
def callbacks(world: World, data: str, initiator: str) -> dict[str, str]:
    """Each callback with these bytes, as a pool or lender would make it."""
    token, raw = world.tokens[1].address, bytes.fromhex(data[2:])
    return {
        "uniswapV2Call": call("uniswapV2Call", world.executor.address, 10**18, 0, raw),
        "pancakeCall": call("pancakeCall", world.executor.address, 10**18, 0, raw),
        "uniswapV3SwapCallback": call("uniswapV3SwapCallback", -1, 10**18, raw),
        "pancakeV3SwapCallback": call("pancakeV3SwapCallback", -1, 10**18, raw),
        "receiveFlashLoan": call("receiveFlashLoan", [token], [10**18], [0], raw),
        "onMorphoFlashLoan": call("onMorphoFlashLoan", 10**18, raw),
        "executeOperation": call("executeOperation", token, 10**18, 0, initiator, raw),
        "onFlashLoan": call("onFlashLoan", initiator, token, 10**18, 0, raw),
    }


def arguments_of(route: Route) -> str:
    """What a flash swap or loan carries through its pool or lender: calldata without the selector."""
    return "0x" + encode(route)[10:]


def payment(token: str, allowed: int) -> str:
    """What a V3 leg carries through its pool."""
    return "0x" + abi_encode(["address", "uint256"], [token, allowed]).hex()


def test_every_function_is_in_the_tests_below(world: World) -> None:
    known = {*callbacks(world, "0x", NOBODY), "execute", "sweep", "owner"}
    assert {entry["name"] for entry in artefact()["abi"] if entry["type"] == "function"} == known
    assert not [entry for entry in artefact()["abi"] if entry["type"] in ("receive", "fallback")]


def test_nobody_but_the_owner_starts_anything(world: World) -> None:
    not_owner = custom("NotOwner()")
    for data in (
        encode(world.flash_swap(("v2_low", "v3_low"), 1, 10**21)),
        call("sweep", NOBODY),
        call("sweep", world.tokens[0].address),
    ):
        assert world.refused(data, sender=world.stranger) == not_owner


def test_not_even_the_owner_starts_anything_within_a_call(world: World) -> None:
    """An owner that is a contract, and a pool as well."""
    puppet = world.puppet.address.lower()
    world.anvil.call("anvil_impersonateAccount", puppet)
    world.anvil.call("anvil_setBalance", puppet, hex(10**24))
    executor = world.deploy(artefact(), sender=puppet).address
    route = Route("uniswap_v2_flash_swap", None, 10**18, 0, FAR, (world.leg("v2_low", False), puppet_leg(world, "v2", True)))
    world.tell(selector("getReserves()"), [], DEAR)
    tries = [encode(route), call("sweep", NOBODY), call("sweep", world.tokens[0].address)]
    world.tell(selector(V2_SWAP), [*((executor, data) for data in tries), give(world, 1, 2 * 10**18, executor)])
    assert world.send(encode(route), sender=puppet, to=executor)["status"] == 1
    *refused, (paid, _) = world.puppet.functions.results().call()
    assert paid
    assert [(done, "0x" + answer.hex()) for done, answer in refused] == [(False, custom("Reentered()"))] * 3
    assert world.balances(executor) == (0, 0)
    # and afterwards it may again
    assert world.send(tries[1], sender=puppet, to=executor)["status"] == 1


def test_forged_callbacks_are_refused_to_everybody(world: World) -> None:
    for token in world.tokens:
        world.mint(token, world.executor.address, 10**21)  # something to steal
    route = arguments_of(world.flash_swap(("v2_low", "v3_low"), 1, 10**21))
    for data in ("0x", route, payment(world.tokens[1].address, 10**20)):
        for initiator in (world.executor.address, world.stranger):
            for name, forged in callbacks(world, data, initiator).items():
                named = initiator != world.executor.address and name in ("executeOperation", "onFlashLoan")
                for sender in (world.stranger, world.owner, world.puppet.address, world.addresses["v2_low"]):
                    culprit = initiator if named else sender
                    assert world.refused(forged, sender=sender) == custom("NotExpected(address)", int(culprit, 16))
    # from within a contract too
    world.tell("0x12345678", [(world.executor.address, forged) for forged in callbacks(world, route, NOBODY).values()])
    assert world.send("0x12345678", to=world.puppet.address, sender=world.stranger)["status"] == 1
    assert not any(done for done, _ in world.puppet.functions.results().call())


def hostile(world: World, route: Route) -> list[tuple[str, str]]:
    """All that a hostile contract can try on the executor while it trades ``route``; none of it may work."""
    tries = [encode(route), call("sweep", NOBODY), call("sweep", world.tokens[1].address)]
    for data in (arguments_of(route), payment(world.tokens[1].address, 10**18), "0x"):
        for initiator in (world.executor.address, world.puppet.address):
            tries += callbacks(world, data, initiator).values()
    return [(world.executor.address, data) for data in tries]


def give(world: World, token: int, amount: int, to: str | None = None) -> tuple[str, str]:
    """A transfer that the puppet makes, by default to the executor."""
    data = custom("transfer(address,uint256)", int(to or world.executor.address, 16), amount)
    return (world.tokens[token].address, data)


def outcomes(world: World) -> list[bool]:
    return [done for done, _ in world.puppet.functions.results().call()]


def puppet_leg(world: World, kind: Any, zero_for_one: bool) -> Leg:
    token_in = world.tokens[0 if zero_for_one else 1].address.lower()
    return Leg(world.puppet.address.lower(), token_in, kind, zero_for_one, 3000)


RESERVES = "0x" + f"{10**24:064x}" * 2 + 64 * "0"
DEAR = "0x" + f"{10**24:064x}{10**25:064x}" + 64 * "0"  # token0, in token1
V2_SWAP, V3_SWAP = "swap(uint256,uint256,address,bytes)", "swap(address,bool,int256,uint160,bytes)"


def test_a_hostile_v2_pool_within_a_cycle_gets_nothing_done(world: World) -> None:
    for token in world.tokens:
        world.mint(token, world.executor.address, 10**20)
    amount, price = 10**21, 11 * 10**20
    legs = (world.leg("v2_low", False), puppet_leg(world, "v2", True))
    route = Route("uniswap_v2_flash_swap", None, amount, 0, FAR, legs)
    tries = hostile(world, route)
    world.tell(selector("getReserves()"), [], RESERVES)
    world.tell(selector(V2_SWAP), [*tries, give(world, 1, price)])
    # the pool's own word is below the debt: that is a loss, and told as such
    assert world.refused(encode(route)) == not_profitable(0, 0)
    world.tell(selector("getReserves()"), [], DEAR)
    assert world.send(encode(route))["status"] == 1
    assert outcomes(world) == [False] * len(tries) + [True]
    assert world.balances(world.owner) == (10**20, 10**20 + price - amount)
    assert world.balances(world.executor.address) == (0, 0)


def test_only_the_one_who_was_called_may_call_back(world: World) -> None:
    """Somebody else cannot, even at the right time and with the right bytes."""
    legs = (puppet_leg(world, "v2", False), world.leg("v3_low", True))
    route = Route("uniswap_v2_flash_swap", None, 10**18, 0, FAR, legs)
    asked = callbacks(world, arguments_of(route), NOBODY)["uniswapV2Call"]
    accomplice = world.new_puppet()
    world.tell("0x12345678", [(world.executor.address, asked)], puppet=accomplice)
    world.tell(selector("getReserves()"), [], RESERVES)
    steps = [give(world, 0, 10**18), (accomplice.address, "0x12345678"), (world.executor.address, asked)]
    world.tell(selector(V2_SWAP), steps)
    assert world.send(encode(route))["status"] == 1
    ((done, answer),) = accomplice.functions.results().call()
    assert not done
    assert "0x" + answer.hex() == custom("NotExpected(address)", int(accomplice.address, 16))


@pytest.mark.parametrize(("paid", "wanted", "gain"), [(0, 0, 0), (10**18 - 1, 0, 0), (10**18 + 5, 6, 5)])
def test_a_pool_that_pays_less_than_it_says_is_found_out(world: World, paid: int, wanted: int, gain: int) -> None:
    for token in world.tokens:
        world.mint(token, world.executor.address, 10**24)  # enough to repay the debt from
    legs = (world.leg("v2_low", False), puppet_leg(world, "v2", True))
    route = Route("uniswap_v2_flash_swap", None, 10**18, wanted, FAR, legs)
    world.tell(selector("getReserves()"), [], DEAR)
    world.tell(selector(V2_SWAP), [give(world, 1, paid)])
    assert world.refused(encode(route)) == not_profitable(gain, wanted)


@pytest.mark.parametrize("callback", ["uniswapV2Call", "pancakeCall"])
def test_a_hostile_v2_pool_that_lends_is_heard_once(world: World, callback: str) -> None:
    amount = 10**18
    legs = (puppet_leg(world, "v2", False), world.leg("v3_low", True))
    route = Route("uniswap_v2_flash_swap", None, amount, 0, FAR, legs)
    world.tell(selector("getReserves()"), [], RESERVES)
    right = callbacks(world, arguments_of(route), NOBODY)
    asked = right[callback]
    # either name would do, but only once
    tries = [
        (target, data) for target, data in hostile(world, route) if data not in (right["uniswapV2Call"], right["pancakeCall"])
    ]
    good = [give(world, 0, 10**18), (world.executor.address, asked)]
    again = [(world.executor.address, right[name]) for name in ("uniswapV2Call", "pancakeCall")]
    world.tell(selector(V2_SWAP), [*tries, *good, *tries, *again])
    assert world.send(encode(route))["status"] == 1
    assert outcomes(world) == [False] * len(tries) + [True, True] + [False] * (len(tries) + 2)
    assert world.balances(world.executor.address) == (0, 0)
    world.tell(selector(V2_SWAP), [])
    assert world.refused(encode(route)) == custom("NotCalledBack(address)", int(world.puppet.address, 16))


def test_a_hostile_v3_pool_gets_its_input_once_and_no_more(world: World) -> None:
    for token in world.tokens:
        world.mint(token, world.executor.address, 10**24)
    amount = 10**21
    legs = (world.leg("v2_low", False), puppet_leg(world, "v3", True))
    route = Route("uniswap_v2_flash_swap", None, amount, 0, FAR, legs)
    bought = spent_and_got(world.model("v2_low"), amount, False)[1]
    said = "0x" + abi_encode(["int256", "int256"], [bought, -2 * amount]).hex()
    right = bytes.fromhex(payment(world.tokens[0].address, bought)[2:])
    ask = {wanted: call("uniswapV3SwapCallback", wanted, -2 * amount, right) for wanted in (bought, bought + 1, -1)}
    dearer = call("uniswapV3SwapCallback", bought, -1, bytes.fromhex(payment(world.tokens[0].address, 2 * bought)[2:]))
    other = call("uniswapV3SwapCallback", bought, -1, bytes.fromhex(payment(world.tokens[1].address, bought)[2:]))
    before = world.balances(world.puppet.address)
    steps = [ask[bought + 1], ask[-1], dearer, other, ask[bought], ask[bought]]
    tries = hostile(world, route)
    world.tell(selector(V3_SWAP), [*tries, *((world.executor.address, step) for step in steps), give(world, 1, 2 * amount)], said)
    assert world.send(encode(route))["status"] == 1
    assert outcomes(world) == [False] * (len(tries) + 4) + [True, False, True]
    told = [answer for _, answer in world.puppet.functions.results().call()]
    assert "0x" + told[len(tries)].hex() == custom("TooMuchAsked(uint256,uint256)", bought + 1, bought)
    assert world.balances(world.puppet.address) == (before[0] + bought, before[1] - 2 * amount)
    assert world.balances(world.owner) == (10**24, 10**24 + amount)
    world.tell(selector(V3_SWAP), [], said)
    assert world.refused(encode(route)) == custom("NotCalledBack(address)", int(world.puppet.address, 16))


@pytest.mark.parametrize(
    ("funding", "entry", "callback"),
    [
        ("balancer_v2", "flashLoan(address,address[],uint256[],bytes)", "receiveFlashLoan"),
        ("morpho_blue", "flashLoan(address,uint256,bytes)", "onMorphoFlashLoan"),
        ("aave_v3", "flashLoanSimple(address,address,uint256,bytes,uint16)", "executeOperation"),
        ("maker", "flashLoan(address,address,uint256,bytes)", "onFlashLoan"),
    ],
)
def test_a_hostile_lender_is_heard_once_and_keeps_no_allowance(world: World, funding: str, entry: str, callback: str) -> None:
    for token in world.tokens:
        world.mint(token, world.executor.address, 10**24)
    amount = 10**18
    route = Route(funding, world.puppet.address.lower(), amount, 0, FAR, world.legs(("v2_low", "v3_low"), 1))
    asked = callbacks(world, arguments_of(route), world.executor.address)[callback]
    tries = [pair for pair in hostile(world, route) if pair[1] != asked]
    steps = [*tries, give(world, 1, amount), (world.executor.address, asked), *tries, (world.executor.address, asked)]
    world.tell(selector(entry), steps, TRUE)
    gain = predicted(world, ("v2_low", "v3_low"), 1, amount)
    assert world.send(encode(route))["status"] == 1
    assert outcomes(world) == [False] * len(tries) + [True, True] + [False] * (len(tries) + 1)
    # a lender that does not take its loan back has made a present of it
    kept = 0 if funding == "balancer_v2" else amount
    assert world.balances(world.owner) == (10**24, 10**24 + gain + kept)
    assert world.tokens[1].functions.allowance(world.executor.address, world.puppet.address).call() == 0
    world.tell(selector(entry), [], TRUE)
    assert world.refused(encode(route)) == custom("NotCalledBack(address)", int(world.puppet.address, 16))


def test_a_lender_cannot_be_made_to_call_back_for_somebody_else(world: World) -> None:
    """Aave and ERC-3156 lenders call back whomever a borrower names."""
    world.mint(world.tokens[1], world.executor.address, 10**21)
    route = bytes.fromhex(arguments_of(world.flash_swap(("v2_low", "v3_low"), 1, 10**18))[2:])
    for signature, more in (("flashLoanSimple(address,address,uint256,bytes,uint16)", [0]), (FLASH_LOAN, [])):
        kinds = signature[signature.index("(") + 1 : -1].split(",")
        arguments = [world.executor.address, world.tokens[1].address, 10**18, route, *more]
        data = selector(signature) + abi_encode(kinds, arguments).hex()
        refused = world.refused(data, sender=world.stranger, to=world.lender.address)
        assert refused == custom("NotExpected(address)", int(world.stranger, 16))


FLASH_LOAN = "flashLoan(address,address,uint256,bytes)"


def test_a_route_of_one_leg_or_with_too_large_an_amount_is_refused(world: World) -> None:
    leg = (world.addresses["v3_low"], world.tokens[1].address, 1, False, 3000)
    one = call("execute", (0, NOBODY, 10**18, 0, FAR, [leg]))
    assert world.refused(one) == custom("TooFewLegs(uint256)", 1)
    negative = call("execute", (0, NOBODY, 2**255, 0, FAR, [leg, leg]))
    assert world.refused(negative) == custom("TooMuchAsked(uint256,uint256)", 2**255, 2**255 - 1)


# ----------------------------------------------------------------------------------------------------------------- gas used
def next_slot(world: World) -> int:
    """The next block's time, which is the node's then: the first swap of a block in a V3 pool writes it down, which is gas."""
    time_s = int(world.anvil.call("eth_getBlockByNumber", "latest", False)["timestamp"], 16) + 12
    world.anvil.call("evm_setNextBlockTimestamp", time_s)
    return time_s


# In a slot of its own, where each pool writes down the time: 16,665 and 10,416 more than within the slot of the trade before, for
# which 152,000 and 160,000 were measured through a minimal contract that keeps the gain.
@pytest.mark.parametrize(("names", "most"), [(("v2_low", "v2_high"), 168_000), (("v3_low", "v2_high"), 160_000)])
def test_gas_used_stays_where_it_is(world: World, names: tuple[str, ...], most: int) -> None:
    route = world.flash_swap(names, 1, 10**18)
    world.mint(world.tokens[1], world.owner, 1)  # an owner that has held the quote token before
    next_slot(world)
    assert world.send(encode(route))["status"] == 1
    next_slot(world)
    used = world.send(encode(route))["gasUsed"]
    assert used <= most


# ----------------------------------------------------------------------------------------------------------------- simulate
@pytest.mark.parametrize("penniless", [NOBODY, "0x" + 40 * "7"])
@pytest.mark.parametrize(("names", "quote"), CYCLES)
def test_a_dry_run_needs_no_contract_and_no_account(world: World, names: tuple[str, ...], quote: int, penniless: str) -> None:
    route = world.flash_swap(names, quote, 10**21)
    dry = {"to": DRY_RUN_ADDRESS, "sender": penniless, "deployed": False, "gas_limit": 2_000_000, "max_fee_wei": 10**12}
    assert world.simulate(route, **dry) == world.simulate(route) == predicted(world, names, quote, 10**21)
    with pytest.raises(Refused, match=r"(?i)insufficient funds"):
        world.simulate(route, sender="0x" + 40 * "7", gas_limit=2_000_000, max_fee_wei=10**12)
    with pytest.raises(WouldRevert, match="NotProfitable"):
        world.simulate(world.flash_swap(names, quote, 10**21, 10**21), **dry)
    assert world.anvil.call("eth_getCode", DRY_RUN_ADDRESS, "latest") == "0x"


def test_the_transaction_itself_is_simulated(world: World) -> None:
    route = world.flash_swap(("v2_low", "v3_low"), 1, 10**21)
    world.simulate(route, block=world.anvil.block_number, gas_limit=400_000, max_fee_wei=3 * 10**9)
    (method, (asked, block)), (gas_method, _) = world.endpoint.asked[-2:]
    assert (method, gas_method, int(block, 16)) == ("eth_call", "eth_simulateV1", world.anvil.block_number)
    assert asked == {
        "from": world.owner,
        "to": world.executor.address.lower(),
        "data": encode(route),
        "gas": hex(400_000),
        "maxFeePerGas": hex(3 * 10**9),
    }
    with pytest.raises(WouldRevert):
        world.simulate(route, gas_limit=60_000)
    with pytest.raises(WouldRevert, match="no contract answers at"):
        world.simulate(route, to=DRY_RUN_ADDRESS)
    with pytest.raises(WouldRevert, match="NotOwner"):
        world.simulate(route, sender=world.stranger)


class Scripted:
    """An endpoint that says what it is told to: of the profit, or of the gas."""

    def __init__(self, *, profit: Any = "0x" + 64 * "0", gas: Any = ()) -> None:
        self.profit, self.gas = profit, gas

    async def batch(self, calls: Any) -> Any:
        for answer in (self.profit, self.gas):
            if isinstance(answer, Exception):
                raise answer
        return [self.profit, self.gas]


@pytest.mark.parametrize(
    ("answer", "expected", "words"),
    [
        (Refused("eth_call", 3, "execution reverted", not_profitable(5, 7)), WouldRevert, "a gain of 5 raw where 7 was wanted"),
        (Refused("eth_call", -32000, "execution reverted"), WouldRevert, "execution reverted"),
        (Refused("eth_call", -32000, "out of gas"), WouldRevert, "out of gas"),
        (Refused("eth_call", -32015, "VM execution error.", f"Reverted {not_profitable(5, 7)}"), WouldRevert, "a gain of 5 raw"),
        (Refused("eth_call", -32015, "VM execution error.", "Reverted 0x"), WouldRevert, "VM execution error"),
        (Refused("eth_call", -32000, "header not found"), Refused, "header not found"),
        (Refused("eth_call", -32602, "too many arguments"), Refused, "too many arguments"),
        (Unknown("eth_call", "timeout"), Unknown, "timeout"),
        ("0x", WouldRevert, "no contract answers"),
        ("0x12", Unknown, "malformed"),
        (None, Unknown, "malformed"),
        ({}, Unknown, "malformed"),
        ("0x" + 128 * "0", Unknown, "malformed"),
    ],
)
def test_a_revert_is_told_apart_from_no_answer(answer: Any, expected: type[Exception], words: str) -> None:
    arguments: dict[str, Any] = {"to": DRY_RUN_ADDRESS, "sender": NOBODY, "data": "0x", "block": "latest"}
    simulator = Simulator(Scripted(profit=answer), deployed=True)  # type: ignore[arg-type]
    with pytest.raises(expected, match=words) as raised:
        asyncio.run(simulator.run(**arguments))
    assert type(raised.value) is expected


# ---------------------------------------------------------------------------------------------------------------------- gas
class Without:
    """An endpoint of a node that lacks a method."""

    def __init__(self, endpoint: Any, missing: str, code: int = -32601) -> None:
        self.endpoint, self.missing, self.code, self.asked = endpoint, missing, code, 0
        self.words = "the method is not available"

    async def batch(self, calls: Any) -> Any:
        if any(method == self.missing for method, _ in calls):
            self.asked += 1
            raise Refused(self.missing, self.code, self.words)
        return [await self.endpoint.request(method, parameters) for method, parameters in calls]


def measured(world: World, route: Route, endpoint: Any = None, deployed: bool = True, **changed: Any) -> int:
    terms = {"to": world.executor.address, "sender": world.owner, "block": "latest", "time_s": next_slot(world), **changed}
    simulator = Simulator(endpoint or Without(world.endpoint, ""), deployed=deployed)
    return asyncio.run(simulator.run(data=encode(route), **terms)).gas_used


@pytest.mark.parametrize(("names", "quote"), CYCLES)
def test_the_gas_that_is_measured_is_the_gas_that_is_paid(world: World, names: tuple[str, ...], quote: int) -> None:
    route = world.flash_swap(names, quote, 10**18)
    for _ in range(2):  # an owner without the quote token, and one with it
        told, needed = measured(world, route), measured(world, route, Without(world.endpoint, "eth_simulateV1"))
        dry = measured(world, route, deployed=False, to=DRY_RUN_ADDRESS, sender="0x" + 40 * "7")
        assert world.send(encode(route))["gasUsed"] == pytest.approx(told, rel=0.002)  # bytes of addresses differ where it is dry
        assert 0.7 * told <= needed <= 1.27 * told  # without refunds, but at the time of the block that is there
        assert dry == pytest.approx(told, rel=0.15)  # that account never held the token


def test_a_node_that_refuses_the_method_now_is_asked_again(world: World) -> None:
    route, endpoint = world.flash_swap(("v2_low", "v3_low"), 1, 10**18), Without(world.endpoint, "eth_simulateV1", -38_013)
    endpoint.words = "too many blocks"
    assert measured(world, route, endpoint) == measured(world, route, Without(world.endpoint, "eth_simulateV1"))
    simulator = Simulator(endpoint, deployed=True)  # type: ignore[arg-type]
    for asked in (2, 3, 4):
        asyncio.run(simulator.run(to=world.executor.address, sender=world.owner, data=encode(route), block="latest"))
        assert endpoint.asked == asked


def test_a_node_without_the_method_is_asked_for_it_once(world: World) -> None:
    route, endpoint = world.flash_swap(("v2_low", "v3_low"), 1, 10**18), Without(world.endpoint, "eth_simulateV1")
    simulator = Simulator(endpoint, deployed=True)  # type: ignore[arg-type]
    for _ in range(3):
        asyncio.run(simulator.run(to=world.executor.address, sender=world.owner, data=encode(route), block="latest"))
    assert endpoint.asked == 1


@pytest.mark.parametrize("missing", ["", "eth_simulateV1"])
def test_what_reverts_has_no_gas(world: World, missing: str) -> None:
    with pytest.raises(WouldRevert, match="NotProfitable"):
        measured(world, world.flash_swap(("v2_low", "v3_low"), 1, 10**18, 10**24), Without(world.endpoint, missing))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Refused("eth_simulateV1", -32000, "header not found"), Refused),
        (Refused("eth_simulateV1", -32005, "limit exceeded"), Refused),
        (Unknown("eth_simulateV1", "timeout"), Unknown),
        (None, Unknown),
        ([], Unknown),
        ([{"calls": []}], Unknown),
        ([{"calls": [{"status": "0x1", "gasUsed": "0x5207", "returnData": "0x"}]}], Unknown),
        ([{"calls": [{"status": "0x1", "gasUsed": -1, "returnData": "0x"}]}], Unknown),
        ([{"calls": [{"status": "0x0", "gasUsed": "0x9999", "returnData": not_profitable(5, 7)}]}], WouldRevert),
        ([{"calls": [{"status": "0x0", "gasUsed": "0x9999", "returnData": None}]}], WouldRevert),
    ],
)
def test_no_gas_is_believed_that_was_not_told(answer: Any, expected: Any) -> None:
    simulator = Simulator(Scripted(gas=answer), deployed=True)  # type: ignore[arg-type]
    with pytest.raises(expected):
        asyncio.run(simulator.run(to=DRY_RUN_ADDRESS, sender=NOBODY, data="0x", block=7))
    assert simulator._measures  # by what it says, the node has the method


# ----------------------------------------------------------------------------------------------------------------- calldata
addresses = st.integers(0, 2**160 - 1).map(lambda number: f"0x{number:040x}")
legs = st.builds(Leg, addresses, addresses, st.sampled_from(["v2", "v3"]), st.booleans(), st.integers(0, 999_999))


@st.composite
def routes(draw: st.DrawFn) -> Route:
    chosen = tuple(draw(st.lists(legs, min_size=2, max_size=5)))
    funding = draw(st.sampled_from([f"uniswap_{chosen[0].kind}_flash_swap", *LOANS]))
    lender = draw(addresses) if FUNDINGS[funding] else None
    amount, profit, last = (draw(st.integers(low, high)) for low, high in [(1, 2**255 - 1), (0, 2**256 - 1), (0, 2**256 - 1)])
    return Route(funding, lender, amount, profit, last, chosen)


def test_fundings_are_the_lenders_of_the_environments() -> None:
    assert set(FUNDINGS) == {lender.name for lender in LENDERS}


@given(routes())
def test_calldata_is_the_contracts_and_comes_back(route: Route) -> None:
    data = encode(route)
    assert decode(data) == route
    legs = [(leg.pool, leg.token_in, ["v2", "v3"].index(leg.kind), leg.zero_for_one, leg.fee_ppm) for leg in route.legs]
    terms = (route.amount_in_raw, route.minimum_profit_raw, route.last_block)
    whole = (FUNDINGS[route.funding], route.lender or NOBODY, *terms, legs)
    assert data == call("execute", whole)


@given(st.one_of(st.text(), st.binary().map(lambda raw: "0x" + raw.hex()), st.binary().map(lambda raw: "0xf40cf67f" + raw.hex())))
def test_decode_of_anything_raises_value_errors_only(data: str) -> None:
    with pytest.raises(ValueError, match="accepted"):
        decode(data)


@given(routes(), st.data())
def test_decode_takes_no_other_spelling(route: Route, data: st.DataObject) -> None:
    text = encode(route)
    place = data.draw(st.integers(0, len(text) - 1))
    changed = text[:place] + data.draw(st.sampled_from("0123456789abcdefABCDEFx_ ")) + text[place + 1 :]
    try:
        assert encode(decode(changed)) == changed
    except ValueError as error:
        assert "accepted" in str(error)


def test_bad_fields_are_named() -> None:
    pool, token = "0x" + 40 * "1", "0x" + 40 * "2"
    good = Leg(pool, token, "v2", True, 3000)
    for field, value in [("pool", "0x1"), ("token_in", pool.upper()), ("kind", "v4"), ("zero_for_one", 1), ("fee_ppm", 10**6)]:
        terms: dict[str, Any] = {"pool": pool, "token_in": token, "kind": "v2", "zero_for_one": True, "fee_ppm": 0, field: value}
        with pytest.raises(ValueError, match=f"{field} = .*accepted"):
            Leg(**terms)
    for field, value in [
        ("funding", "dydx"),
        ("funding", "uniswap_v3_flash_swap"),
        ("lender", pool),
        ("amount_in_raw", 0),
        ("amount_in_raw", 2**255),
        ("minimum_profit_raw", -1),
        ("last_block", 1.5),
        ("legs", (good,)),
    ]:
        terms = {
            "funding": "uniswap_v2_flash_swap",
            "lender": None,
            "amount_in_raw": 1,
            "minimum_profit_raw": 0,
            "last_block": 1,
            "legs": (good, good),
            field: value,
        }
        with pytest.raises(ValueError, match=f"{field} = .*accepted"):
            Route(**terms)
    with pytest.raises(ValueError, match=r"lender = .*accepted"):
        Route("aave_v3", None, 1, 0, 1, (good, good))


# ------------------------------------------------------------------------------------------------------------------ reverts
@given(st.one_of(st.text(), st.binary().map(lambda raw: "0x" + raw.hex())))
def test_reason_of_anything_is_words(data: str) -> None:
    assert revert_reason(data).isprintable()


errors = st.sampled_from([entry for entry in artefact()["abi"] if entry["type"] == "error"])


@given(errors, st.lists(st.integers(0, 2**256 - 1), min_size=2, max_size=2))
def test_each_error_of_the_contract_is_told_with_its_numbers(error: dict[str, Any], words: list[int]) -> None:
    kinds = [argument["type"] for argument in error["inputs"]]
    words = [word % 2**160 if kind == "address" else word for kind, word in zip(kinds, words, strict=False)]
    told = revert_reason(custom(f"{error['name']}({','.join(kinds)})", *words))
    assert told.startswith(f"{error['name']}: ")
    for kind, word in zip(kinds, words, strict=True):
        assert (f"0x{word:040x}" if kind == "address" else str(word)) in told


def test_solidity_s_own_errors_are_told() -> None:
    assert revert_reason("0x08c379a0" + abi_encode(["string"], ["UniswapV2: K"]).hex()) == "UniswapV2: K"
    assert revert_reason("0x08c379a0" + abi_encode(["string"], ["a\nb" + 500 * "c"]).hex()) == "a?b" + 197 * "c"
    assert revert_reason(custom("Panic(uint256)", 0x11)) == "Panic: arithmetic overflow"
    assert revert_reason(custom("Panic(uint256)", 0x99)) == "Panic: code 0x99"
    assert revert_reason("0x") == "no reason given"
    assert revert_reason("0x12345678ff") == "an unknown error 0x12345678 with 1 bytes"


# --------------------------------------------------------------------------------------------------------------- the artefact
def test_the_code_on_the_chain_is_the_artefacts(world: World) -> None:
    assert world.anvil.call("eth_getCode", world.executor.address, "latest") == runtime_code(world.owner)
    assert world.executor.functions.owner().call().lower() == world.owner


def test_the_artefact_is_of_this_source() -> None:
    assert artefact()["source_sha256"] == sha256((CONTRACTS / "ArbExecutor.sol").read_bytes()).hexdigest()
    assert artefact()["compiler"].startswith("0.8.24+")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("compiled", "sources"),
    [
        (CONTRACTS / "ArbExecutor.json", [CONTRACTS / "ArbExecutor.sol"]),
        (ROOT / "tests/live/contracts/contracts.json", sorted((ROOT / "tests/live/contracts").glob("*.sol"))),
    ],
)
def test_the_sources_compile_to_the_same_bytes(compiled: Path, sources: list[Path]) -> None:
    node = shutil.which("node")
    if node is None or not (MODULES / "solc").exists():
        pytest.skip(f"node, or solc 0.8.24 in {MODULES.parent.name}/, is missing: make chain")
    command = [node, str(CONTRACTS / "compile.js"), *map(str, sources)]
    made = subprocess.run(command, env={**os.environ, "NODE_PATH": str(MODULES)}, capture_output=True, text=True, check=True)
    assert json.loads(made.stdout) == json.loads(compiled.read_text())
    assert made.stdout == compiled.read_text()
