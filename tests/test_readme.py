"""The README's Python, run as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (REPOSITORY / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)


def test_every_python_block_runs(tmp_path: Path) -> None:
    programs = blocks("python")
    assert len(programs) >= 3
    for program in programs:
        first = program.split("\n", 1)[0]
        if match := re.match(r"# (\w+\.py)", first):  # a file of the reader's own, which a later block uses
            (tmp_path / match.group(1)).write_text(program, encoding="utf-8")
    for program in programs:
        subprocess.run(
            [sys.executable, "-c", program], check=True, cwd=tmp_path, env={"PATH": "", "PYTHONPATH": f"{REPOSITORY}:{tmp_path}"}
        )


def test_every_module_the_readme_runs_exists() -> None:
    commands = "\n".join(blocks("sh"))
    modules = set(re.findall(r"python -m ([\w.]+)", commands))
    assert {"experiments.train", "experiments.evaluate", "experiments.benchmark", "arbgym.data", "arbgym"} <= modules
    for module in modules:
        path = REPOSITORY / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


def test_the_table_of_what_arbsell_observes_is_complete() -> None:
    from arbgym.envs.sell import OBSERVATION

    rows = re.findall(
        r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.M
    )
    told = {name: (unit, float(scale), meaning) for name, unit, scale, meaning in rows if re.fullmatch(r"[\d.]+", scale)}
    for entry in OBSERVATION:
        if "_lag_" in entry.name:
            assert f"{entry.name.rsplit('_', 1)[0]}_1 ... {entry.name.rsplit('_', 1)[0]}_16" in told
        else:
            assert told[entry.name] == (entry.unit, entry.scale, entry.meaning)
