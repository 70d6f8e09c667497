"""``python -m arbgym list | info ID | check ID | bench ID``: what is registered, its tables, its conformance, its speed."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import gymnasium
import numpy as np

import arbgym
from arbgym.engine import Definition, NativeEnv, NativeVectorEnv, load_definition, steps_per_second
from arbgym.spec import ENCODINGS, action_space, schema_hash


def _table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    cells = [[str(cell) for cell in row] for row in (headings, *rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(headings))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _definition(id_: str) -> Definition:
    if id_ not in arbgym.ENVIRONMENTS:
        raise ValueError(f"id = {id_!r}; accepted are {', '.join(arbgym.ENVIRONMENTS)}")
    return load_definition(arbgym.ENVIRONMENTS[id_])


def list_environments() -> str:
    """One line per registered id."""
    rows = []
    for id_ in arbgym.ENVIRONMENTS:
        definition = _definition(id_)
        title = (inspect.getdoc(definition.module) or "").split("\n", 1)[0]
        size = f"{len(definition.observation)} -> {len(definition.action)}"
        rows.append((id_, size, len(definition.presets), title.split(": ", 1)[-1]))
    return _table(("id", "observation -> action", "presets", "problem"), rows)


def info(id_: str, preset: str | None) -> str:
    """The environment's documentation, its observation, action and info tables, and a preset's numbers."""
    definition = _definition(id_)
    preset = preset or definition.presets[0]
    fields = [
        (k, f.name, f.unit, f"{f.scale:g}", f"[{f.low:g}, {f.high:g}]", f.meaning) for k, f in enumerate(definition.observation)
    ]
    choices = [
        (c.name, c.unit, len(c.values), " ".join(f"{v:g}" for v in c.values), " ".join(c.labels), c.meaning)
        for c in definition.action
    ]
    encodings = [(e, action_space(definition.action, e)) for e in ENCODINGS]
    return "\n\n".join(
        (
            inspect.getdoc(definition.module) or id_,
            "Observation (value = clip(raw / scale, low, high), float32)\n"
            + _table(("index", "name", "unit", "scale", "range", "meaning"), fields),
            "Action\n" + _table(("name", "unit", "values", "multidiscrete values", "labels", "meaning"), choices),
            _table(("encoding", "space"), encodings),
            f"Info (per step): {', '.join(definition.info)}",
            f"Baselines: {', '.join(definition.baselines())}",
            f"Schema: observation {schema_hash(definition.observation)[:16]}, action {schema_hash(definition.action)[:16]}",
            f"Presets: {', '.join(definition.presets)}; {preset} is\n"
            + json.dumps(asdict(definition.configure(preset)), indent=2),
        )
    )


def check(id_: str) -> str:
    """Gymnasium's checker in every encoding with warnings as errors, and batch against single, bit for bit."""
    from gymnasium.utils.env_checker import check_env

    _definition(id_)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for encoding in ENCODINGS:
            check_env(gymnasium.make(id_, action=encoding).unwrapped, skip_render_check=True)
    envs = NativeVectorEnv(arbgym.ENVIRONMENTS[id_], 4, autoreset="disabled")
    singles = [NativeEnv(arbgym.ENVIRONMENTS[id_]) for _ in range(4)]
    seen = envs.reset(seed=123)[0]
    alone = [env.reset(seed=123 + i)[0] for i, env in enumerate(singles)]
    envs.action_space.seed(0)
    for _ in range(100):
        if not np.array_equal(seen, np.stack(alone)):
            raise AssertionError(f"{id_}: a row of the batch differs from the single environment with its seed")
        actions = envs.action_space.sample()
        seen = envs.step(actions)[0]
        alone = [env.step(actions[i])[0] for i, env in enumerate(singles)]
    return f"{id_}: check_env passes without a warning in {', '.join(ENCODINGS)}; batch equals single over 100 steps"


def bench(id_: str, seconds: float) -> str:
    """Environment steps per second with random actions."""
    _definition(id_)
    rows = []
    for num_envs in (1, 64, 1_024, 4_096, 16_384):
        rate = steps_per_second(arbgym.ENVIRONMENTS[id_], num_envs, seconds)
        rows.append((num_envs, f"{rate:,.0f}"))
    return _table(("environments", "steps per second"), rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a wrong id or preset is said on stderr with status 2."""
    parser = argparse.ArgumentParser(prog="python -m arbgym", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="registered environments")
    for name, text in (("info", "documentation and tables"), ("check", "conformance"), ("bench", "speed")):
        command = commands.add_parser(name, help=text)
        command.add_argument("id", help="environment id, such as ArbFlash-v0")
        if name == "info":
            command.add_argument("--preset", help="whose numbers to print")
        if name == "bench":
            command.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "list":
            text = list_environments()
        elif chosen.command == "info":
            text = info(chosen.id, chosen.preset)
        elif chosen.command == "check":
            text = check(chosen.id)
        else:
            text = bench(chosen.id, chosen.seconds)
    except ValueError as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
