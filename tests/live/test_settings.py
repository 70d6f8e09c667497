"""Settings: where they come from, what is refused and in which words, and that no message or repr holds a secret."""

from __future__ import annotations

import json
import os
import re
import tomllib
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("web3", reason='web3 is missing: pip install "arbgym[live]"')

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from arbgym.live import settings as live_settings
from arbgym.live.clock import SystemClock
from arbgym.live.profiles import NAMES, PROFILES
from arbgym.live.reference import FileReference
from arbgym.live.reload import LimitsFile, Reloaded
from arbgym.live.risk import MemoryStore, RiskGate
from arbgym.live.settings import PREFIX, Settings, SettingsError, load
from tests.live.test_risk import TestClock

CANARY = "canary7f3a9c1e5b2d8f604a"
EXAMPLE = Path(live_settings.__file__).with_name("example.toml")


def table() -> dict[str, Any]:
    return tomllib.loads(live_settings.example())


def fields_of(model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """(section, field) of every field that a person can set."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from ((name, inner) for inner in field.annotation.model_fields)
        else:
            yield "", name


# ---------------------------------------------------------------------------------------------------------- the example
def test_the_example_loads_and_names_every_field() -> None:
    loaded = load(EXAMPLE, environment={})
    assert loaded.limits == PROFILES["conservative"]
    text = live_settings.example()
    sections = re.split(r"^\[+(\w+)\]+", text, flags=re.MULTILINE)
    written = {"": sections[0]}
    for name, body in zip(sections[1::2], sections[2::2], strict=True):
        written[name] = written.get(name, "") + body
    for section, field in fields_of(Settings):
        if section == "" and field in ("pools", "lenders"):
            assert field in written
        else:
            assert re.search(rf"^(# )?{field} = ", written[section], re.MULTILINE), (section, field)
    for field in live_settings.PoolSettings.model_fields:
        assert re.search(rf"^{field} = ", written["pools"], re.MULTILINE)


def test_the_example_with_everything_uncommented_loads_and_shows_the_defaults() -> None:
    """What stands behind "# " is a field; what is marked as a default is one."""
    text = re.sub(r"^# (\w+ = )", r"\1", live_settings.example(), flags=re.MULTILINE)
    whole = tomllib.loads(text)
    whole["pair"]["native_is_base"] = False
    loaded = load(None, whole, {})
    assert loaded.limits == PROFILES["conservative"]
    assert loaded.pair.native_price_ratio == 0.2
    least = load(None, {name: table()[name] for name in ("chain", "pair", "pools")}, {})
    for section, field in fields_of(Settings):
        if section in ("chain", "pair") or field == "pools":
            continue
        written = table()[section].get(field) if section else table().get(field)
        default = getattr(getattr(least, section), field) if section else getattr(least, field)
        if written is not None and field != "lenders":
            secret = getattr(default, "get_secret_value", None)
            assert written == (secret() if secret else str(default) if isinstance(default, Path) else default), (section, field)


def test_the_columns_that_the_example_names_are_those_that_are_read() -> None:
    found = re.search(r"^# path = .*# csv: (\S+) ", live_settings.example(), re.MULTILINE)
    assert found is not None
    source = FileReference(Path("prices.csv"), SystemClock(), lambda text: None)
    assert source._columns(found[1] + "\n") == (0, 1)


# -------------------------------------------------------------------------------------------------------------- sources
def test_each_source_overrules_the_one_before(tmp_path: Path) -> None:
    environment = {
        f"{PREFIX}CHAIN__CHAIN_ID": "5",
        f"{PREFIX}CHAIN__RPC": "https://node.example/KEY",
        "arbgym_live__risk__min_profit_eth": "0.5",
        f"{PREFIX}LENDERS": json.dumps({"morpho_blue": "0x" + "1" * 40}),
        f"{PREFIX}LENDERS__MORPHO_BLUE": "0x" + "2" * 40,
        "ARBGYM_KEYSTORE_PASSWORD": "not a setting",
        "HOME": "/",
    }
    loaded = load(EXAMPLE, {"chain": {"chain_id": 7}, "executor": "0x" + "A" * 40}, environment)
    assert loaded.chain.chain_id == 7
    assert loaded.chain.rpc.get_secret_value() == "https://node.example/KEY"
    assert loaded.chain.block_time_s == 12.0
    assert loaded.limits.min_profit_eth == 0.5
    assert loaded.executor == "0x" + "a" * 40
    assert set(loaded.lenders) == {"balancer_v2", "aave_v3", "morpho_blue"}
    pools = [{"name": str(number), "address": "0x" + str(number) * 40} for number in (1, 2, 3)]
    assert [pool.name for pool in load(EXAMPLE, None, {f"{PREFIX}POOLS": json.dumps(pools)}).pools] == ["1", "2", "3"]


def test_paths_of_a_file_are_relative_to_its_folder_wherever_it_is_loaded_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a runner that is started elsewhere sees neither the kill file nor its own HALTED state, and trades."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    text = re.sub(r"^# (path = )", r"\1", live_settings.example(), flags=re.MULTILINE)
    (home / "live.toml").write_text(text)
    (home / "short.toml").write_text(re.sub(r"^(# )?(kill_file|path) = .*$", "", text, flags=re.MULTILINE))
    (home / "absolute.toml").write_text(text.replace('"arbgym.kill"', '"/run/arbgym.kill"'))
    found = []
    for start, name in ((home, "live.toml"), (elsewhere, "../home/live.toml"), (elsewhere, str(home / "live.toml"))):
        monkeypatch.chdir(start)
        loaded = load(Path(name), None, {})
        files = (loaded.risk.kill_file, loaded.journal.path, loaded.log.path, loaded.keystore.path, loaded.reference.path)
        found.append([file.resolve() for file in files if file is not None])
        assert all(file is not None and file.is_absolute() for file in files)
    names = ("arbgym.kill", "arbgym-live.sqlite", "arbgym-live.jsonl", "key.json", "prices.csv")
    assert found == [[home / name for name in names]] * 3
    short = load(home / "short.toml", None, {})
    assert (short.risk.kill_file, short.journal.path) == (home / "arbgym.kill", home / "arbgym-live.sqlite")
    assert (short.log.path, short.keystore.path, short.reference.path) == (None, None, None)
    assert load(home / "absolute.toml", None, {}).risk.kill_file == Path("/run/arbgym.kill")
    told = load(home / "live.toml", {"journal": {"path": Path("here.sqlite")}}, {f"{PREFIX}RISK__KILL_FILE": "here.kill"})
    assert (told.journal.path, told.risk.kill_file) == (Path("here.sqlite"), Path("here.kill"))
    for path in (None, EXAMPLE):  # nobody's file
        assert load(path, table(), {}).risk.kill_file == Path("arbgym.kill")


def test_a_reload_from_another_folder_sees_the_same_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(tmp_path / "live.toml")
    monkeypatch.chdir("/")
    watched.path.write_text(watched.text + "# a word more\n")
    assert watched.file.poll() is None


def test_ages_are_two_block_times() -> None:
    loaded = load(EXAMPLE, {"chain": {"block_time_s": 2.0}}, {})
    assert (loaded.limits.max_head_age_s, loaded.limits.max_reference_age_s) == (4.0, 4.0)


@pytest.mark.parametrize(
    ("section", "field", "value", "said"),
    [
        ("chain", "chain_id", 0, "chain.chain_id = 0; accepted is greater than 0"),
        ("chain", "chain_id", "x", "chain.chain_id = 'x'; accepted is a valid integer"),
        ("chain", "head_timeout_s", float("nan"), "chain.head_timeout_s = nan; accepted is"),
        ("chain", "request_timeout_s", 0.0, "chain.request_timeout_s = 0; accepted is greater than 0"),
        (
            "chain",
            "rpc",
            "ftp://a",
            "chain.rpc = a secret; accepted is a URL that begins with http:// or https:// or ws:// or wss://",
        ),
        ("chain", "rpc", "http://[", "chain.rpc = a secret; accepted is a URL"),
        ("chain", "rpc", "http://a:99999", "chain.rpc = a secret; accepted is a URL"),
        (
            "chain",
            "ropc",
            "x",
            "chain.ropc: unknown, perhaps rpc is meant; accepted names are in what python -m arbgym.live --example prints",
        ),
        ("chain", "chain_id", True, "chain.chain_id = true; accepted is a number"),
        ("chain", "head_timeout_s", True, "chain.head_timeout_s = true; accepted is a number"),
        ("risk", "max_consecutive_reverts", True, "risk.max_consecutive_reverts = true; accepted is a number"),
        ("risk", "min_profit", 1.0, "risk.min_profit: unknown, perhaps min_profit_eth is meant; accepted names are in what"),
        (
            "pools",
            None,
            [{"name": "a", "address": "0x" + "1" * 40, "fee_pm": 1}] * 2,
            "pools.0.fee_pm: unknown, perhaps fee_ppm is",
        ),
        ("statsu", None, {}, "statsu: unknown, perhaps status is meant"),
        ("status", "port", "abc", "status.port = 'abc'; accepted is a valid integer, at least 0, at most 65535"),
        ("lenders", None, {"aave_v2": "0x" + "1" * 40}, "lenders.aave_v2: unknown, perhaps aave_v3 is meant; accepted is one of"),
        ("pair", "base", "0x12", "pair.base = '0x12'; accepted is 0x and 40 hexadecimal digits"),
        (
            "pair",
            "base",
            "0xC02aaA39b223FE8D0A0e5C4F27eAD9083C756cC2",
            "6cC2': its EIP-55 checksum is wrong; accepted is an address with its right checksum, or all in lower case",
        ),
        ("pair", "native_price_ratio", 0.5, "pair.native_price_ratio = 0.5; accepted is none where native_is_base = true"),
        ("pools", None, [], "pools = a list; accepted is 2 or more"),
        ("pools", None, [{"name": "a", "address": "0x" + "1" * 40}] * 5, "pools = a list; accepted is 4 at most"),
        ("pools", None, [{"name": "a", "address": "0x" + "1" * 40}] * 2, "accepted is pools that differ in their name"),
        ("pools", None, [{"name": "a", "address": "0x1"}] * 2, "pools.0.address = '0x1'; accepted is 0x and 40"),
        ("lenders", None, {"uniswap_v2_flash_swap": "0x" + "1" * 40}, "flash swaps need no address"),
        ("lenders", None, {"aave_v3": 5}, "lenders.aave_v3 = 5; accepted is a valid string"),
        ("executor", None, "0x", "executor = '0x'; accepted is 0x and 40 hexadecimal digits"),
        ("relay", "url", "ws://relay", "relay.url = a secret; accepted is a URL that begins with http:// or https://"),
        ("reference", "kind", "csv", "reference.path: missing; accepted is a value, as kind = 'csv' needs"),
        (
            "reference",
            "kind",
            "oracle",
            "reference.kind = 'oracle'; accepted is 'none', 'pool', 'binance_rest', 'binance_ws' or 'csv'",
        ),
        ("risk", "profile", "mad", "risk.profile = 'mad'; accepted is 'conservative', 'balanced' or 'aggressive'"),
        ("risk", "max_drawdown", 1.5, "risk.max_drawdown = 1.5; accepted is 0 to 1"),
        ("risk", "equity_eth", 0, "risk.equity_eth = 0; accepted is greater than 0"),
        ("status", "port", 70_000, "status.port = 70000; accepted is less than or equal to 65535"),
        ("status", "control_token", "short", "status.control_token: too short; accepted is 16 characters or more, or none"),
        ("log", "level", "loud", "log.level = 'loud'; accepted is 'debug', 'info', 'warning' or 'error'"),
        ("fees", "bump_percent", 12.4, "fees.bump_percent = 12.4; accepted is greater than or equal to 12.5"),
    ],
)
def test_a_refusal_names_the_field_the_value_and_what_is_accepted(section: str, field: str | None, value: Any, said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load(None, table() | {section: value if field is None else table()[section] | {field: value}}, {})
    assert said in str(refused.value)


def test_a_reference_pool_is_one_of_the_pools() -> None:
    assert load(EXAMPLE, {"reference": {"kind": "pool", "pool": "uniswap_v2"}}, {}).reference.pool == "uniswap_v2"
    with pytest.raises(
        SettingsError, match=r"reference\.pool: not the name of a pool; accepted is one of the pools, uniswap_v2, uniswap_v3_5"
    ):
        load(EXAMPLE, {"reference": {"kind": "pool", "pool": "another"}}, {})


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "CHANE__RPC",
            CANARY,
            "ARBGYM_LIVE__CHANE__RPC: unknown, perhaps ARBGYM_LIVE__CHAIN__RPC is meant; accepted is ARBGYM_LIVE__SECTION__FIELD",
        ),
        ("EXECUTOR__X", CANARY, "ARBGYM_LIVE__EXECUTOR__X: unknown"),
        ("POOLS__0__NAME", CANARY, "ARBGYM_LIVE__POOLS__0__NAME: unknown"),
        ("CHAIN__RPC__X", CANARY, "ARBGYM_LIVE__CHAIN__RPC__X: unknown"),
        ("POOLS", CANARY, "environment: pools is not JSON"),
        ("CHAIN", CANARY, "environment: chain is not JSON"),
        ("CHAIN__KEY", CANARY, "ARBGYM_LIVE__CHAIN__KEY: unknown"),
        ("CHAIN__RPC", CANARY, "chain.rpc = a secret"),
    ],
)
def test_an_environment_variable_is_refused_by_name(name: str, text: str, said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load(EXAMPLE, environment={PREFIX + name: text})
    assert said in str(refused.value)
    assert CANARY not in whole_story(refused.value)


@pytest.mark.parametrize(
    "name",
    ["ARBGYM_LIVE_RISK__MIN_PROFIT_ETH", "ARBGYM_LIVE__RISK_MIN_PROFIT_ETH", "arbgym_live__risk__min_profit", "ARBGYM_LIVERISK"],
)
def test_a_variable_that_is_nearly_a_setting_s_is_refused_and_not_ignored(name: str) -> None:
    """Whoever wrote it believes that the limit holds."""
    with pytest.raises(SettingsError) as refused:
        load(EXAMPLE, environment={name: CANARY})
    assert f"environment variable {name}: unknown" in str(refused.value)
    if "MIN_PROFIT" in name.upper():
        assert "perhaps ARBGYM_LIVE__RISK__MIN_PROFIT_ETH is meant; accepted is ARBGYM_LIVE__SECTION" in str(refused.value)
    assert CANARY not in whole_story(refused.value)


def test_each_field_has_its_variable_and_other_programs_have_theirs() -> None:
    for section, field in fields_of(Settings):
        name = f"{PREFIX}{section}__{field}" if section else PREFIX + field
        try:
            load(EXAMPLE, environment={name.upper(): "x", "ARBGYM_PRIVATE_KEY": CANARY, "ARBGYM_KEYSTORE_PASSWORD": CANARY})
        except SettingsError as error:
            assert "variable" not in str(error), name


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff", "byte 0 is no UTF-8"),
        (b"a = ", "not TOML (at "),
        (b"a = 1\na = 2", "not TOML"),
        (b"[" * 10_000, "not TOML"),
        (None, "No such file"),
    ],
)
def test_a_file_that_is_no_toml_is_refused(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "live.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError) as refused:
        load(path, environment={})
    assert said in str(refused.value)


# -------------------------------------------------------------------------------------------------------------- secrets
def whole_story(error: BaseException) -> str:
    """All that a log could hold of an error: message, repr, chain of causes."""
    return "".join(traceback.format_exception(error)) + repr(error) + repr(error.__context__) + repr(error.__cause__)


SECRET_PLACES = [("chain", "rpc"), ("relay", "url"), ("reference", "url"), ("status", "control_token")]


@pytest.mark.parametrize(("section", "field"), SECRET_PLACES)
def test_a_secret_is_in_no_repr_and_in_no_dump(section: str, field: str) -> None:
    secret = CANARY if field == "control_token" else f"https://user:{CANARY}@node.example/{CANARY}"
    loaded = load(EXAMPLE, {section: {field: secret}}, {})
    assert getattr(getattr(loaded, section), field).get_secret_value() == secret
    for text in (
        repr(loaded),
        str(loaded),
        repr(loaded.model_dump()),
        loaded.model_dump_json(),
        f"{loaded.chain!r}{loaded.status}",
    ):
        assert CANARY not in text


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        [CANARY, f"wss://{CANARY}@x/{CANARY}", f"0x{CANARY}", f"http://{CANARY}:x", "1e999", "0x" + "f" * 64, "\x00"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["rpc", "url", "name", "x"]), inner, max_size=3),
    max_leaves=5,
)
PLACES = st.sampled_from(
    [*fields_of(Settings), ("", "chain"), ("", "risk"), ("", "unknown"), ("chain", "unknown"), ("", "status")]
)


def refused_or_loaded(overrides: Mapping[str, Any], environment: Mapping[str, str], secrets: list[str]) -> None:
    """The one promise: settings, or a SettingsError with a name in it and no secret."""
    try:
        loaded = load(EXAMPLE, overrides, environment)
    except SettingsError as error:
        story = whole_story(error)
        assert error.__context__ is None
        assert "accepted" in str(error)
        assert any(name in str(error) for name in (*Settings.model_fields, "settings", "environment", "unknown"))
        for secret in secrets:
            assert secret not in story
    else:
        for section, field in SECRET_PLACES:
            text = getattr(getattr(loaded, section), field).get_secret_value()
            assert len(text) < 16 or not text.strip("[") or text not in repr(loaded)  # brackets may be a path's, too


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(PLACES, JUNK), min_size=1, max_size=3))
@example([(("", "chain"), CANARY)])
@example([(("", "lenders"), {"name": CANARY})])
@example([(("log", "path"), CANARY), (("chain", "chain_id"), 0)])
def test_no_junk_does_more_than_be_refused(changes: list[tuple[tuple[str, str], Any]]) -> None:
    overrides: dict[str, Any] = {}
    for (section, field), value in changes:
        where = overrides.setdefault(section, {}) if section else overrides
        if isinstance(where, dict):
            where[field] = value
    refused_or_loaded(overrides, {}, [CANARY, "f" * 64])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        PLACES.map(lambda place: "__".join(part.upper() for part in place if part)) | st.text("AB_", min_size=1, max_size=6),
        st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20)
        | JUNK.map(lambda junk: json.dumps(junk))
        | st.just("[" * 100_000),
        max_size=3,
    )
)
def test_no_environment_does_more_than_be_refused(variables: dict[str, str]) -> None:
    refused_or_loaded({}, {PREFIX + name: text for name, text in variables.items()}, [CANARY])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode), st.integers(0, len(EXAMPLE.read_bytes())))
def test_no_damage_of_the_file_does_more_than_be_refused(tmp_path: Path, junk: bytes, place: int) -> None:
    path = tmp_path / "live.toml"
    text = EXAMPLE.read_bytes()
    path.write_bytes(text[:place] + junk + text[place + len(junk) // 2 :])
    try:
        load(path, None, {})
    except SettingsError as error:
        assert error.__context__ is None


# ----------------------------------------------------------------------------------------------------------- hot reload
class Watched:
    """A file, a gate, and what a poll says."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = live_settings.example()
        path.write_text(self.text)
        loaded = load(path, None, {})
        self.gate = RiskGate(loaded.limits, TestClock(), MemoryStore(), 10.0)
        self.file = LimitsFile(path, loaded, self.gate, None, {})
        assert self.file.poll() is None

    def change(self, former: str, new: str) -> None:
        """Write another text in place of one in the example, and make the change visible in the file's time."""
        assert former in self.text
        self.path.write_text(self.text.replace(former, new))
        stamp = self.path.stat().st_mtime_ns + 1_000_000
        os.utime(self.path, ns=(stamp, stamp))


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "live.toml")


def test_a_tighter_limit_in_the_file_applies_at_once_and_a_looser_one_waits(watched: Watched) -> None:
    before = watched.gate.limits
    watched.change('profile = "conservative"', 'profile = "conservative"\nmin_profit_eth = 0.5\nmax_notional_eth = 500.0')
    assert watched.file.poll() == Reloaded(tightened=("min_profit_eth",), waiting=("max_notional_eth",))
    assert watched.gate.limits == replace(before, min_profit_eth=0.5)
    assert watched.file.poll() is None
    watched.gate.confirm()
    assert watched.gate.limits == replace(before, min_profit_eth=0.5, max_notional_eth=500.0)
    watched.path.write_text(watched.text)
    assert watched.file.poll() == Reloaded(tightened=("max_notional_eth",), waiting=("min_profit_eth",))


def test_each_limit_can_be_tightened_by_the_file(watched: Watched) -> None:
    for name in NAMES:
        value = getattr(watched.gate.limits, name)
        tight = (
            value - 1 if isinstance(value, int) else 1.0 if name == "min_confidence" else value * (2 if "min_" in name else 0.5)
        )
        watched.change('profile = "conservative"', f'profile = "conservative"\n{name} = {tight}')
        found = watched.file.poll()
        assert found is not None
        assert found.tightened == (name,)
        assert getattr(watched.gate.limits, name) == tight


def test_a_file_that_cannot_be_used_changes_nothing_and_is_told_of_once(watched: Watched) -> None:
    before = watched.gate.limits
    watched.change('profile = "conservative"', 'profile = "reckless"')
    found = watched.file.poll()
    assert found is not None
    assert "risk.profile = 'reckless'" in found.error
    assert watched.file.poll() is None
    watched.path.unlink()
    gone = watched.file.poll()
    assert gone is not None
    assert "No such file" in gone.error
    assert watched.file.poll() is None
    assert watched.gate.limits == before
    watched.change('profile = "conservative"', 'profile = "conservative"\nmax_leverage = 1.0')
    assert watched.file.poll() == Reloaded(tightened=("max_leverage",))


def test_the_same_text_written_again_is_no_change_and_other_sections_ask_for_a_restart(watched: Watched) -> None:
    watched.change("[chain]", "[chain]")
    assert watched.file.poll() is None
    watched.change("equity_eth = 10.0 ", "equity_eth = 20.0 ")
    assert watched.file.poll() == Reloaded(restart=("risk.equity_eth",))
    watched.change("maximum_fee_gwei = 5000.0", "maximum_fee_gwei = 100.0")
    assert watched.file.poll() == Reloaded(restart=("fees", "risk.equity_eth"))  # the latter back to what the runner started with
