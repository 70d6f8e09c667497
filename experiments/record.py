"""``python -m experiments.record ENV --policy random|rule|mixture|FOLDER``: record a dataset for offline learning.

python -m experiments.record ArbCross-v0 --policy mixture --out datasets/cross-mixture
python -m experiments.record ArbFlash-v0 --policy runs/ppo_flash/STAMP --action continuous --out datasets/flash-expert
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import arbgym
from arbgym.data import read_tape
from arbgym.evaluation import TRAINING_SEED
from arbgym.spec import ENCODINGS
from experiments import datasets
from experiments.worlds import TRAINING_SHARE


def main(arguments: Sequence[str] | None = None) -> int:
    """Record from the command line; returns the process's exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.record", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("environment", choices=sorted(arbgym.ENVIRONMENTS))
    parser.add_argument("--policy", default="mixture", help="random, rule, mixture, or the folder of a run or exported policy")
    parser.add_argument("--episodes", type=int, default=1_024)
    parser.add_argument("--action", choices=ENCODINGS, default="continuous", help="encoding (default %(default)s)")
    parser.add_argument("--preset")
    parser.add_argument("--data", type=Path, help="a tape to replay; its earlier 70 %% is recorded")
    parser.add_argument("--seed", type=int, default=TRAINING_SEED, help="of the first episode (default %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="the dataset's folder")
    flags = parser.parse_args(arguments)
    try:
        datasets.require_offline()
        if flags.episodes < 1:
            raise ValueError(f"episodes = {flags.episodes}; accepted is 1 or more")
        world = {} if flags.preset is None else {"preset": flags.preset}
        if flags.data is not None:
            tape = read_tape(flags.data).span(0.0, TRAINING_SHARE)
            world |= {"feed": "replay", "tape": tape, "episode_blocks": min(200, len(tape.timestamps) // 2)}
        acting = datasets.behaviour(flags.policy, flags.environment, flags.action, world)
        recorded = datasets.play(flags.environment, acting, world, flags.episodes, flags.seed)
        datasets.write(recorded, acting.definition, flags.out)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    reward = sum(float(rewards.sum()) for rewards in recorded.rewards) / max(len(recorded.rewards), 1)
    print(f"{flags.out}: {len(recorded.rewards):,} episodes, {recorded.steps:,} steps, mean return {reward:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
