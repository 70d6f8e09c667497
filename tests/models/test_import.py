"""Whoever only wants to know what the predictors are waits for none of their libraries."""

from __future__ import annotations

import subprocess
import sys


def test_predictors_import_no_learner() -> None:
    script = (
        "import sys, arbgym, arbgym.models.boosted, arbgym.models.sequence, arbgym.models.ensemble, arbgym.models.calibration;"
        "print([m for m in ('torch', 'lightgbm', 'onnx', 'onnxruntime', 'sklearn', 'pandas') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == "[]"
