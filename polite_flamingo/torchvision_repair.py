"""Make torchvision importable beside a torch of another build, for the libraries that need its image transforms.

PyPI has no CPU build of torchvision for Linux. Its CUDA build beside a CPU torch fails at import ("operator
torchvision::nms does not exist"), and with it open_clip, timm and the models of transformers.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

_declared: list[Any] = []
"""torch drops the operators of a library that is garbage-collected."""


def repair_torchvision() -> None:
    """Declare the operators that torchvision's own library could not define; do nothing if the builds match.

    Call it before importing open_clip, open_flamingo, peft or sentence_transformers, or making a model of
    transformers. They use torchvision's image transforms only, which need no operator.
    """
    if _declared or "torchvision" in sys.modules:
        return
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    import torch

    package = Path(spec.origin).parent
    library = next(package.glob("_C*"), None)
    if library is not None:
        try:
            torch.ops.load_library(str(library))
            return
        except OSError:
            pass
    registrations = (package / "_meta_registrations.py").read_text()
    names = re.findall(r"torchvision::(\w+)", registrations) + re.findall(r'register_meta\("(\w+)"', registrations)
    missing = torch.library.Library("torchvision", "FRAGMENT")
    for name in sorted(set(names)):
        missing.define(f"{name}(Tensor x) -> Tensor")
    _declared.append(missing)
