"""``python -m experiments.report RUN``: a run's folder as one HTML page that needs nothing else, its pictures
inside.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from experiments import figures
from experiments.config import command, from_json
from experiments.judge import rows
from experiments.monitor import write_atomically
from experiments.saved import CONFIG, RESULT, load_json, load_learning_curve

REPORT = "report.html"
_PAGE = Path(__file__).with_name("report_page.html")


def write_report(folder: Path) -> Path:
    """Write ``report.html`` from config.json, result.json and learning.jsonl of a run's folder."""
    config, result = load_json(folder / CONFIG), load_json(folder / RESULT)
    run, name = config["run"], result["run"]["name"]
    git = config["git"]
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(_PAGE.read_text(encoding="utf-8"))
    content = page.render(
        name=name,
        environment=run["environment"],
        preset=run["preset"],
        feed=run["feed"],
        action=run["action"],
        seed=run["seed"],
        episodes=result["episodes"],
        **result["training"],
        speed=result["speed"],
        export=result["export"],
        headline=headline(result),
        table=rows(result, name),
        pictures=[
            {"title": title, "note": note, "picture": picture}
            for title, note, picture in figures.all_figures(result, load_learning_curve(folder))
        ],
        commands=_commands(run, config.get("resumed"), folder),
        revision=f"{git['commit'] or 'outside a checkout'}{' with changes' if git['dirty'] else ''}",
        libraries=", ".join(f"{library} {version}" for library, version in config["versions"].items()),
        configuration=json.dumps(run, indent=1),
    )
    write_atomically(folder / REPORT, content.encode())
    return folder / REPORT


def headline(result: dict[str, Any]) -> str:
    """The result in two sentences."""
    name = result["run"]["name"]
    own = result["policies"][name]
    net, share = own["net_profit"], own["oracle_share"]
    text = (
        f"{name} earns {net['mean']:,.1f} per episode (95 % interval {net['low']:,.1f} to {net['high']:,.1f}), "
        f"{share['mean']:.1%} of what hindsight could have earned."
    )
    rivals = {rule: result["policies"][rule]["net_profit"]["mean"] for rule in result["paired"]}
    if not rivals:
        return text
    best = max(rivals, key=lambda rule: rivals[rule])
    gain = result["paired"][best]
    relative = f" ({gain['mean'] / rivals[best]:+.1%})" if rivals[best] > 0.0 else ""
    return (
        f"{text} The best baseline, {best}, earns {rivals[best]:,.1f}; {name} makes {gain['mean']:+,.1f}{relative} "
        f"beside it, paired 95 % interval {gain['low']:+,.1f} to {gain['high']:+,.1f}."
    )


def _commands(run: dict[str, Any], resumed: dict[str, Any] | None, folder: Path) -> str:
    """What to type for the same result."""
    train = command(from_json(run))
    if resumed is not None:
        train = f"# this run went on after {resumed['steps']:,} steps of {resumed['from']}; in one go it would be\n{train}"
    return f"{train}\npython -m experiments.evaluate {folder}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a run's report anew."""
    parser = argparse.ArgumentParser(prog="python -m experiments.report", description=write_report.__doc__)
    parser.add_argument("run", type=Path, help="runs/NAME/STAMP")
    try:
        print(write_report(parser.parse_args(arguments).run))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
