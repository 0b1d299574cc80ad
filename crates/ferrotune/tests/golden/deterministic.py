"""Seeds, places and the few numeric measures that every other module shares.

Every random tensor comes from its own generator, seeded by a name, so that adding a case never moves another one.
"""

import json
import os
import re
import zlib
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
VOCAB = 96
IGNORE = -100


def single_threaded() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.utils.logging.disable_progress_bar()


def generator(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))


def normal(name: str, shape, std: float) -> torch.Tensor:
    return torch.randn(tuple(shape), generator=generator(name), dtype=torch.float64).mul(std).float()


def write_tensors(path: Path, tensors: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().contiguous().clone() for key, value in sorted(tensors.items())}
    # One metadata entry only: safetensors writes several in an order of its own, and runs would differ.
    save_file(tensors, path, metadata={"format": "pt"})


def write_json(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, indent=1, sort_keys=True)
    # Lists of plain values on one line, so that a list of token ids does not become a page.
    text = re.sub(r"\[[^\[\]{}]*\]", lambda found: re.sub(r"\s*\n\s*", " ", found[0]).replace("[ ", "[").replace(" ]", "]"), text)
    path.write_text(text + "\n")


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Euclidean norm of the difference over the norm of what was expected: the measure for gradients and weights."""
    found, expected = found.double(), expected.double()
    scale = expected.norm().item()
    return (found - expected).norm().item() / scale if scale > 0 else found.norm().item()
