"""``python -m experiments.record ENVIRONMENT [flags]``: record a dataset for offline learning, in Minari's format.

    python -m experiments.record ArbFlash-v0                                   # a mixture, 4,096 episodes, continuous actions
    python -m experiments.record ArbFlash-v0 --policy random --action discrete --episodes 1000
    python -m experiments.record ArbCross-v0 --policy runs/ppo_cross/STAMP --out datasets/cross-expert-v0
    python -m experiments.record ArbFlash-v0 --preset polygon --feed replay --data PATH
    python -m experiments.record ENVIRONMENT --help     # every number of the world is a flag

--policy is random, rule, mixture (see experiments/behaviours.py), or the folder of a run or an exported policy. Training worlds
only: training seeds, or the earlier span of a tape. Ctrl-C keeps what is recorded.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console

import arbgym
from experiments.config import parse_recording
from experiments.datasets import read_source, record


def main(arguments: Sequence[str] | None = None) -> int:
    """Record from the command line; returns the process's exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"{__doc__}\nENVIRONMENT is one of: {', '.join(arbgym.ENVIRONMENTS)}")
        return 0 if arguments else 2
    try:
        out = record(parse_recording(arguments), Console())
        source = read_source(out) or {}
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    best = source["mean_oracle_profit"]  # 0 where nobody works it out while others act
    share = f" ({source['mean_net_profit'] / best:.1%} of the oracle's)" if best > 0.0 else ""
    print(
        f"{out}: {source['episodes']:,} episodes played by {source['policy']}, net profit {source['mean_net_profit']:,.1f} each"
        f"{share}\n"
        f'MINARI_DATASETS_PATH={out.parent} python -c "import minari; print(minari.load_dataset({out.name!r}).spec)"'
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
