"""``python -m experiments.benchmark [PART]``: speed as ratios of one run, a table and JSON.

Parts: amm, env, train, quality, data, offline, models, live. Without one amm, env and train run: ``quality`` trains ten times and
takes half an hour, ``data`` wants 7 GB of temporary disk, ``offline`` the environment of ``make offline``, ``live`` a local chain
(``make chain``) for one of its figures. Rates are the best of a few repetitions or medians of works that take turns; on a shared
machine trust the ratios.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

PARTS = ("amm", "env", "train", "quality", "data", "offline", "models", "live")
DEFAULT = PARTS[:3]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts asked for, print a table, and write the JSON file if one is named."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmark", description=__doc__)
    parser.add_argument("part", nargs="?", choices=PARTS, help="which; amm, env and train by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write [{name, value, unit, ratio_to, ratio}, ...]")
    chosen = parser.parse_args(arguments)
    if chosen.json is not None and not chosen.json.resolve().parent.is_dir():
        parser.error(f"--json {chosen.json}: the folder does not exist")
    rows: list[dict[str, Any]] = []
    for part in [chosen.part] if chosen.part else DEFAULT:
        try:
            rows += import_module(f"experiments.benchmark_{part}").rows()
        except ValueError as error:  # a part that needs what is not installed
            print(f"error: {error}", file=sys.stderr)
            return 2
    table = Table("figure", "value", "unit", "ratio", "to")
    for row in rows:
        value = f"{row['value']:,.0f}" if row["value"] >= 1_000 else f"{row['value']:.4g}"
        table.add_row(row["name"], value, row["unit"], f"{row['ratio']:,.3g}" if row["ratio"] else "", row["ratio_to"] or "")
    Console(width=140).print(table)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
