"""What the runner is told: a TOML file, then environment variables, then explicit overrides; each overrules the one before.

``arbgym/live/example.toml`` has every field with its meaning. A field's environment variable is ``ARBGYM_LIVE__SECTION__FIELD``;
lists and tables are written as JSON there. What nobody knows is refused, and a refusal names the field and what is accepted.
Relative paths of a file, and those it leaves at their defaults, are relative to its folder; others to the working directory.
URLs and the control token hold secrets: they are in no ``repr`` and in no message.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as SourceError

from arbgym.live.profiles import Limits, ProfileName, profile_limits
from arbgym.live.terms import LiveError
from arbgym.market.lender import LENDERS, MAKER

PREFIX = "ARBGYM_LIVE__"
_MEANT = PREFIX.rstrip("_")  # whoever begins a name like this means a setting
_LENDERS = tuple(lender.name for lender in LENDERS if lender.name != MAKER.name)  # it mints: no balance says what it lends
_WITHOUT_FIELDS = ("pools", "executor")
_FLASH_SWAPS = tuple(lender.name for lender in LENDERS if lender.first_leg)
_PATHS = (("risk", "kill_file"), ("journal", "path"), ("log", "path"), ("keystore", "path"), ("reference", "path"))
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_SHOWN = re.compile(r"(?:0x[0-9a-fA-F]{0,42}|[\w.+\-]{1,16})\Z", re.ASCII)  # texts that an error may repeat: no key fits
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}\Z")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,79}\Z")
_EXAMPLE_SHOWS = "what python -m arbgym.live --example prints"


class SettingsError(LiveError):
    """Settings that cannot be used; the message names the field, the value where it is no secret, and what is accepted."""


class _Unfit(ValueError):
    """A validator's words: what is accepted; where the value does not say it, what is wrong; of a table, which field."""

    def __init__(self, accepted: str, *, wrong: str = "", field: str = "") -> None:
        super().__init__(accepted)
        self.wrong, self.field = wrong, field


# --------------------------------------------------------------------------------------------------------- kinds of values
def _address(text: str) -> str:
    """20 bytes in hexadecimal; where upper and lower case are mixed, they are EIP-55's checksum."""
    if not _ADDRESS.fullmatch(text):
        raise ValueError("0x and 40 hexadecimal digits")
    digits = text[2:]
    if digits not in (digits.lower(), digits.upper()):
        from eth_utils.address import is_checksum_address  # only here: one more library at start

        if not is_checksum_address(text):
            raise _Unfit("an address with its right checksum, or all in lower case", wrong="its EIP-55 checksum is wrong")
    return text.lower()


def _address_or_none(text: str) -> str:
    return _address(text) if text else ""


def _url(*schemes: str) -> AfterValidator:
    def check(url: SecretStr) -> SecretStr:
        text = url.get_secret_value()
        if text:
            try:
                parts = urlsplit(text)
                known = parts.scheme in schemes and bool(parts.hostname) and (parts.port is None or parts.port > 0)
            except ValueError:
                known = False
            if not known:
                raise ValueError(f"a URL that begins with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        return url

    return AfterValidator(check)


Address = Annotated[str, AfterValidator(_address)]
OptionalAddress = Annotated[str, AfterValidator(_address_or_none)]
RpcUrl = Annotated[SecretStr, _url("http", "https", "ws", "wss")]
Port = Annotated[int, Field(ge=0, le=65_535)]
Seconds = Annotated[float, Field(gt=0.0, le=86_400.0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False, validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Python takes true for 1; who wrote it meant something else."""
        if isinstance(value, bool) and info.field_name is not None:
            kind = cls.model_fields[info.field_name].annotation
            if kind in (int, float) or any(one in (int, float) for one in get_args(kind)):
                raise _Unfit("a number")
        return value


# ---------------------------------------------------------------------------------------------------------------- sections
class ChainSettings(_Section):
    """The chain and the node that speaks for it."""

    rpc: RpcUrl
    chain_id: int = Field(gt=0, lt=2**63)
    head_timeout_s: Seconds = 60.0
    request_timeout_s: Seconds = 3.0
    block_time_s: Seconds = 12.0


class PairSettings(_Section):
    """The two tokens, and how amounts in quote become amounts in the chain's own coin."""

    base: Address
    quote: Address
    native_is_base: bool = True
    native_price_ratio: float | None = Field(default=None, gt=0.0, le=1e9)

    @model_validator(mode="after")
    def _one_source(self) -> PairSettings:
        if self.base == self.quote:
            raise _Unfit("another address than pair.base", wrong="the same as pair.base", field="quote")
        if self.native_is_base and self.native_price_ratio not in (None, 1.0):
            raise _Unfit("none where native_is_base = true", field="native_price_ratio")
        if not self.native_is_base and self.native_price_ratio is None:
            raise _Unfit(
                "the coin's price in base tokens, where native_is_base = false", wrong="missing", field="native_price_ratio"
            )
        return self


class PoolSettings(_Section):
    """One watched pool. A v3 pool says its fee itself; 0 asks it."""

    name: str = Field(min_length=1, max_length=40, pattern=r"^[A-Za-z0-9_.\-]+$")
    address: Address
    fee_ppm: int = Field(default=0, ge=0, lt=1_000_000)


class RelaySettings(_Section):
    """A private relay; without one, private transactions are not sent."""

    url: Annotated[SecretStr, _url("http", "https")] = SecretStr("")


class ReferenceSettings(_Section):
    """A price seen outside the pools."""

    kind: Literal["none", "pool", "binance_rest", "binance_ws", "csv"] = "none"
    url: RpcUrl = SecretStr("")
    symbol: str = Field(default="", max_length=40, pattern=r"^[A-Za-z0-9]*$")
    path: Path | None = None
    pool: str = ""

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> ReferenceSettings:
        needs = {"pool": ("pool",), "binance_rest": ("url", "symbol"), "binance_ws": ("url", "symbol"), "csv": ("path",)}
        for name in needs.get(self.kind, ()):
            value = getattr(self, name)
            if not (value.get_secret_value() if isinstance(value, SecretStr) else value):
                raise _Unfit(f"a value, as kind = {self.kind!r} needs", wrong="missing", field=name)
        return self


class RiskSettings(_Section):
    """A profile, and any of its limits changed by name."""

    profile: ProfileName = "conservative"
    equity_eth: float = Field(default=10.0, gt=0.0, lt=1e9)
    kill_file: Path = Path("arbgym.kill")
    max_notional_eth: float | None = None
    max_exposure_eth: float | None = None
    max_leverage: float | None = None
    max_flash_borrow_eth: float | None = None
    gas_budget_eth_per_day: float | None = None
    max_daily_loss_eth: float | None = None
    max_drawdown: float | None = None
    max_consecutive_reverts: int | None = None
    max_orders_per_minute: int | None = None
    max_head_age_s: float | None = None
    max_reference_age_s: float | None = None
    max_clock_skew_s: float | None = None
    min_confidence: float | None = None
    kelly_fraction: float | None = None
    min_profit_eth: float | None = None

    @model_validator(mode="after")
    def _are_limits(self) -> RiskSettings:
        self.limits(12.0)
        return self

    def limits(self, block_time_s: float) -> Limits:
        """The limits on a chain with this block time."""
        changes = {name: value for name, value in self if name not in ("profile", "equity_eth", "kill_file")}
        return profile_limits(self.profile, block_time_s, **changes)


class JournalSettings(_Section):
    """Where intents are written before they are sent."""

    path: Path = Path("arbgym-live.sqlite")


class StatusSettings(_Section):
    """The status page; port 0 is none."""

    host: str = Field(default="127.0.0.1", min_length=1, max_length=255)
    port: Port = 0
    control_token: SecretStr = SecretStr("")

    @model_validator(mode="after")
    def _long_enough(self) -> StatusSettings:
        if 0 < len(self.control_token.get_secret_value()) < 16:
            raise _Unfit("16 characters or more, or none", wrong="too short", field="control_token")
        return self


class MetricsSettings(_Section):
    """Prometheus metrics on the loopback interface; port 0 is none."""

    port: Port = 0


class LogSettings(_Section):
    """Structured logs: a file, or without a path standard error."""

    path: Path | None = None
    level: Literal["debug", "info", "warning", "error"] = "info"


class KeystoreSettings(_Section):
    """The sender's key: a keystore v3 file. The password is no setting: it is prompted for, or in its own variable."""

    path: Path | None = None


class FeeSettings(_Section):
    """What a transaction may pay."""

    maximum_fee_gwei: float = Field(default=5_000.0, gt=0.0, le=1e6)
    bump_percent: float = Field(default=12.5, ge=12.5, le=100.0)
    gas_limit_margin_percent: float = Field(default=10.0, ge=0.0, le=200.0)


class Settings(BaseSettings):
    """Everything the runner is told. Made by ``load``."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        validate_default=True,
    )

    chain: ChainSettings
    pair: PairSettings
    pools: tuple[PoolSettings, ...] = Field(min_length=2, max_length=4)
    lenders: dict[str, Address] = {}
    executor: OptionalAddress = ""
    relay: RelaySettings = RelaySettings()
    reference: ReferenceSettings = ReferenceSettings()
    risk: RiskSettings = RiskSettings()
    journal: JournalSettings = JournalSettings()
    status: StatusSettings = StatusSettings()
    metrics: MetricsSettings = MetricsSettings()
    log: LogSettings = LogSettings()
    keystore: KeystoreSettings = KeystoreSettings()
    fees: FeeSettings = FeeSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what ``load`` hands over, merged."""
        return (init_settings,)

    @model_validator(mode="after")
    def _fit_together(self) -> Settings:
        for what in ("name", "address"):
            values = [getattr(pool, what) for pool in self.pools]
            if len(set(values)) < len(values):
                raise _Unfit(f"pools that differ in their {what}", wrong=f"two have the same {what}", field="pools")
        for name in self.lenders:
            known = [lender for lender in _LENDERS if lender not in _FLASH_SWAPS]
            if name not in known:
                accepted = f"one of the names {', '.join(known)}; flash swaps need no address"
                wrong = "a flash swap" if name in _FLASH_SWAPS else "unknown" + _perhaps(name, known)
                raise _Unfit(accepted, wrong=wrong, field=f"lenders.{_shown_name(name)}")
        names = [pool.name for pool in self.pools]
        if self.reference.kind == "pool" and self.reference.pool not in names:
            wrong = "not the name of a pool" + _perhaps(self.reference.pool, names)
            raise _Unfit(f"one of the pools, {', '.join(names)}", wrong=wrong, field="reference.pool")
        return self

    @property
    def limits(self) -> Limits:
        """The risk limits: the profile's, changed by name, on this chain's block time."""
        return self.risk.limits(self.chain.block_time_s)


# ----------------------------------------------------------------------------------------------------------------- loading
EXAMPLE = Path(__file__).with_name("example.toml")
"""The annotated example file: every field, and two pools of Ethereum's WETH/USDC."""


def example() -> str:
    """Its text."""
    return EXAMPLE.read_text(encoding="utf-8")


def load(
    path: Path | None = None, overrides: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None
) -> Settings:
    """Settings from a TOML file, the environment (``os.environ``) and overrides nested as in the file.

    Raises SettingsError.
    """
    variables = os.environ if environment is None else environment
    table: Mapping[str, Any] = {} if path is None else _file(path)
    if path is not None and path != EXAMPLE:  # the example is nobody's file: what runs by it keeps its files where it was started
        table = _placed(table, Path(path).absolute().parent)
    merged = _merged(_merged(table, _variables(variables)), overrides or {})
    try:
        return Settings(**{str(name): value for name, value in merged.items()})
    except ValidationError as error:
        problem = _told(error)
    except RecursionError:
        problem = "settings: nested too deeply; accepted is what example.toml has"
    raise SettingsError(problem)  # outside the handler: pydantic's error holds the values, and would come along as its context


def _file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_bytes().decode("utf-8"))
    except OSError as error:
        problem = f"settings file {str(path)!r}: {error.strerror}; accepted is a TOML file that can be read"
    except UnicodeDecodeError as error:
        problem = f"settings file {str(path)!r}: byte {error.start} is no UTF-8; accepted is a TOML file in UTF-8"
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"\(at [^()]*\)\Z", str(error))
        problem = f"settings file {str(path)!r}: not TOML {place.group() if place else ''}; accepted is as in example.toml"
    except (ValueError, RecursionError):
        problem = f"settings file {str(path)!r}: not TOML; accepted is as in example.toml"
    raise SettingsError(problem)


def _placed(table: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A file's table with its relative paths, told or default, put into its folder.

    Whoever starts the runner from elsewhere must find the same kill file and the same journal, or what was stopped trades again.
    """
    result = dict(table)
    for section, field in _PATHS:
        within = result.get(section, {})
        if not isinstance(within, Mapping):  # refused later, by name
            continue
        told = within.get(field, getattr(Settings.model_fields[section].default, field))
        if isinstance(told, (str, Path)) and told != "":
            result[section] = {**within, field: str(folder / told)}
    return result


def _variables(environment: Mapping[str, str]) -> dict[str, Any]:
    """What the environment's variables say, nested as in the file; pydantic-settings reads them."""
    given = {name: text for name, text in environment.items() if name.upper().startswith(_MEANT)}
    names = [f"{PREFIX}{'__'.join(place)}".upper() for place in _places()]
    for name in given:
        section, *field = name[len(PREFIX) :].lower().split("__")
        known = name.upper() in names or (section == "lenders" and len(field) == 1 and bool(field[0]))
        if not known or not name.upper().startswith(PREFIX):
            shown = name if _VARIABLE.match(name) else _shown_name(name)
            accepted = f"{PREFIX}SECTION__FIELD, with the sections {', '.join(Settings.model_fields)} and their fields"
            perhaps = _perhaps(name.upper(), names)
            raise SettingsError(f"environment variable {shown}: unknown{perhaps}; accepted is {accepted}")
    source = EnvSettingsSource(Settings)
    source.env_vars = {name.lower(): text for name, text in given.items()}
    try:
        return source()
    except SourceError as error:
        named = re.search(r'field "(\w+)"', str(error))
        problem = f"environment: {named.group(1) if named else 'a section'} is not JSON; accepted is JSON for lists and tables"
    except RecursionError:
        problem = "environment: nested too deeply; accepted is what example.toml has"
    raise SettingsError(problem)


def _places() -> list[tuple[str, ...]]:
    """Everything that a variable of its own can tell: each section as a table, and each field of one."""
    found: list[tuple[str, ...]] = []
    for name, info in Settings.model_fields.items():
        inner = _fields(info.annotation) if name not in _WITHOUT_FIELDS else {}
        found += [(name,), *((name, field) for field in inner)]
    return found


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Tables are merged field by field; anything else from above replaces what is below."""
    result = dict(below)
    for name, value in above.items():
        former = result.get(name)
        both = isinstance(former, Mapping) and isinstance(value, Mapping)
        result[name] = _merged(former, value) if both else value  # type: ignore[arg-type]
    return result


# ------------------------------------------------------------------------------------------------------------------ errors
def _told(error: ValidationError) -> str:
    """The first problem in words, without any value that might be a secret."""
    problem = error.errors(include_url=False)[0]
    kind, place = problem["type"], problem["loc"]
    field = ".".join(str(part) if isinstance(part, int) else _shown_name(part) for part in place) or "settings"
    more = "" if error.error_count() == 1 else f" (and {error.error_count() - 1} more)"
    if kind == "missing":
        return f"{field}: missing; accepted is a value as in {_EXAMPLE_SHOWS}{more}"
    if kind == "extra_forbidden":
        known = _siblings(place)
        return f"{field}: unknown{_perhaps(place[-1], known)}; accepted names are in {_EXAMPLE_SHOWS}{more}"
    unfit = problem["ctx"]["error"] if kind == "value_error" else None
    accepted = str(unfit) if unfit is not None else _accepted(problem) + _range(place, kind)
    if unfit is not None and " = " in accepted and place == ("risk",):  # a limit: its own message names it
        return f"risk.{accepted}{more}"
    value = problem["input"]
    if isinstance(unfit, _Unfit) and unfit.field:
        field = f"{field}.{unfit.field}" if place else unfit.field
        value = value.get(unfit.field) if isinstance(value, Mapping) else None
        if unfit.wrong:  # of a table, the words are enough
            return f"{field}: {unfit.wrong}; accepted is {accepted}{more}"
    shown = "a secret" if _secret(place) else _shown(value)
    wrong = f": {unfit.wrong}" if isinstance(unfit, _Unfit) and unfit.wrong else ""
    return f"{field} = {shown}{wrong}; accepted is {accepted}{more}"


def _accepted(problem: Any) -> str:
    """Pydantic's own words are "Input should be ..." and hold no input, except where a text could not be parsed."""
    message = str(problem["msg"])
    for start in ("Input should be ", "String should ", "Value should "):
        if message.startswith(start):
            return message[len(start) :].split(", unable to")[0].split(", got ")[0]
    return {"too_short": "2 or more", "too_long": "4 at most"}.get(problem["type"], "as in example.toml")


def _fields(kind: Any) -> dict[str, Any]:
    """The fields of a section, or of each table in a list of them."""
    for one in (kind, *get_args(kind)):
        if isinstance(one, type) and issubclass(one, BaseModel):
            return dict(one.model_fields)
    return {}


def _siblings(place: tuple[int | str, ...]) -> list[str]:
    """The names that are known where ``place`` is."""
    above = Settings.model_fields.get(str(place[0])) if len(place) > 1 else None
    return list(Settings.model_fields) if above is None else list(_fields(above.annotation))


def _range(place: tuple[int | str, ...], kind: str) -> str:
    """From where to where a number may be, after words that say only that it is to be one."""
    if kind not in ("int_parsing", "int_type", "int_from_float", "float_parsing", "float_type") or len(place) < 2:
        return ""
    section = Settings.model_fields.get(str(place[0]))
    info = None if section is None else _fields(section.annotation).get(str(place[-1]))
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    bounds = () if info is None else info.metadata
    said = [f"{word} {getattr(bound, name)}" for name, word in words.items() for bound in bounds if hasattr(bound, name)]
    return ", ".join(["", *said])


def _perhaps(name: Any, known: Iterable[str]) -> str:
    """The name that was meant, if one is near."""
    near = difflib.get_close_matches(str(name)[:80], list(known), 1, 0.7)
    return f", perhaps {near[0]} is meant" if near else ""


def _secret(place: tuple[int | str, ...]) -> bool:
    return bool(place) and (place[-1] in ("rpc", "url", "control_token") or place[0] == "keystore")


def _shown(value: Any) -> str:
    """A value in an error: numbers and short plain texts as they are, of anything else its kind."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int):
        return str(value) if abs(value) < 10**20 else "a large number"
    if isinstance(value, str):
        return repr(value) if _SHOWN.match(value) else f"a text of {len(value)} characters"
    return "a table" if isinstance(value, Mapping) else "a list" if isinstance(value, (list, tuple)) else "a value"


def _shown_name(name: Any) -> str:
    return name if isinstance(name, str) and _NAME.match(name) else f"(a name of {len(str(name))} characters)"
