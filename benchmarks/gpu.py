"""Speed on a borrowed GPU, and records of the published scale, in a few minutes that may end at any time.

    python benchmarks/gpu.py pack                 # at home: the code of a clean commit, and CIFAR-10 in parts
    python -m zipfile -e parcel/code.zip work     # there, where the folder parcel was brought
    cd work && python benchmarks/gpu.py unpack ../parcel
    python benchmarks/gpu.py run ../OUT --minutes 8
    python benchmarks/gpu.py take OUT FOLDER      # at home again
    python -m repro import FOLDER
    python benchmarks/gpu.py --dry-run            # all of that on a CPU, at a few steps, with two interruptions

It needs Python 3.11 or newer, torch, numpy and Pillow, and four packages that a machine without a registry may lack:
PyYAML, filelock, tqdm and pydantic (compiled core pydantic-core, with annotated-types, typing-extensions and
typing-inspection). Where one lacks, it says so in a line before anything else; bring it as a wheel for that machine.

``run`` measures first (``gpu_speed.py``), then computes records: figures 3 and 6 of the paper at batch 1024, figure 7,
table 1 of post 3, then post 1, whose grids come before its runs. The lowest seed comes first, then the cheapest
network. A run that would not end in time comes after those that do; it is resumable: checkpoints are written every few
seconds, and what is measured or finished lies in OUT at any time.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

NEEDED = (
    "torch", "numpy", "PIL", "yaml", "filelock", "tqdm", "pydantic", "pydantic_core", "annotated_types",
    "typing_extensions", "typing_inspection",
)  # fmt: skip
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """See above; nothing but the standard library is imported before it is known that all is there."""
    if lacking := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        sys.exit(f"gpu.py: missing here: {', '.join(lacking)}; bring them as wheels (see the head of this file)")
    sys.path.insert(0, str(ROOT))  # where the archive was unpacked nothing is installed
    importlib.import_module("gpu_run").main(__doc__)


if __name__ == "__main__":
    main()
