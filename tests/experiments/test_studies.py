"""The recorded sweeps beside the named runs: every recipe that learns by acting is one of its study's trials."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments import sweep_confirm
from experiments.config import RUNS, default_config

STUDIES = Path(__file__).parents[2] / "experiments" / "studies"
ACTING = [name for name in RUNS if hasattr(default_config(name).agent, "update_steps")]


@pytest.mark.parametrize("name", ACTING)
def test_a_recipe_is_the_trial_that_its_study_speaks_for(name: str) -> None:
    study = json.loads((STUDIES / f"{name}.json").read_text())
    agent = default_config(name).agent
    assert study["plan"]["environment"] == default_config(name).environment
    values = [trial["value"] for trial in study["trials"] if _is(agent, trial["parameters"])]
    assert values, f"none of the trials has the recipe of {name}"
    best = max((trial for trial in study["trials"] if trial["state"] == "COMPLETE"), key=lambda trial: trial["value"])
    other = json.loads((STUDIES / "seeds.json").read_text()).get(name)
    if other is None:  # one training seed: less than that is luck
        assert max(values) >= 0.95 * best["value"]
    else:
        means = {label: sum(other[label]["values"]) / len(other["seeds"]) for label in ("default", "best")}
        assert _is(agent, other[max(means, key=lambda label: means[label])]["parameters"])


def _is(agent: Any, parameters: dict[str, Any]) -> bool:
    """Whether the recipe has a trial's values; rates and probabilities were rounded to two digits."""
    for name, value in parameters.items():
        own = getattr(agent, name)
        if isinstance(own, tuple):
            own, value = list(own), [int(width) for width in value.split(",")] if isinstance(value, str) else list(value)
            if own != value:
                return False
        elif own != pytest.approx(value, rel=0.03):
            return False
    return True


def test_the_best_of_a_study_is_played_again_on_other_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = json.loads((STUDIES / "ppo_flash.json").read_text())
    study["plan"] |= {"seconds": 0.3, "checkpoints": 2, "episodes": 8}
    (tmp_path / "study.json").write_text(json.dumps(study))
    into = tmp_path / "seeds.json"
    into.write_text('{"other": 1}')
    assert sweep_confirm.main([str(tmp_path / "study.json"), "--seeds", "4", "5", "--into", str(into)]) == 0
    found = json.loads(into.read_text())
    assert found["other"] == 1 and found["ppo_flash"]["seeds"] == [4, 5]
    assert found["ppo_flash"]["best"]["parameters"]["hidden"] == "32"
    assert all(len(found["ppo_flash"][label]["values"]) == 2 for label in ("default", "best"))
    study["trials"] = []
    (tmp_path / "study.json").write_text(json.dumps(study))
    assert sweep_confirm.main([str(tmp_path / "study.json")]) == 2
    assert "holds no completed trial" in capsys.readouterr().err
