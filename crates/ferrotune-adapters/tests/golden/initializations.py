"""What PEFT makes of a weight when an adapter begins with PiSSA, OLoRA or LoftQ: `initializations.safetensors`.

Needs peft 0.21.2 and bitsandbytes 0.50.2. For each case `NAME.weight`, `NAME.lora_A`, `NAME.lora_B`, and `NAME.base`, the
weight that PEFT leaves in the base; `NAME.scaling` is the scaling. The first four singular values of the PiSSA and
OLoRA weights stand apart from the others, so that the randomized decomposition finds the same ones for any seed.

PEFT's LoftQ wants an accelerator; its own function runs here with the device's name replaced.
"""

import inspect
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from peft.utils import loftq_utils
from safetensors.torch import save_file

RANK = 4


def weight(rows, columns, seed):
    draw = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    u, _, vh = torch.linalg.svd(draw, full_matrices=False)
    k = min(rows, columns)
    values = 0.9 ** torch.arange(k, dtype=torch.float64) * torch.where(torch.arange(k) < RANK, 10.0, 1.0)
    return ((u * values) @ vh).float()


class Model(torch.nn.Module):
    def __init__(self, value):
        super().__init__()
        self.q_proj = torch.nn.Linear(value.shape[1], value.shape[0], bias=False)
        self.q_proj.weight.data = value.clone()


def of_peft(value, **arguments):
    torch.manual_seed(0)
    layer = get_peft_model(Model(value), LoraConfig(r=RANK, target_modules=["q_proj"], **arguments)).base_model.model.q_proj
    return {"weight": value, "lora_A": layer.lora_A["default"].weight.detach(), "lora_B": layer.lora_B["default"].weight.detach(),
            "base": layer.base_layer.weight.detach(), "scaling": torch.tensor(layer.scaling["default"], dtype=torch.float64)}


def of_loftq(value, rank, iterations):
    source = inspect.getsource(loftq_utils.loftq_init).replace('"cuda"', '"cpu"')
    scope = dict(vars(loftq_utils))
    exec(source, scope)  # noqa: S102
    base, a, b = scope["loftq_init"](value, num_bits=4, reduced_rank=rank, num_iter=iterations)
    return {"weight": value, "lora_A": a, "lora_B": b, "base": base, "scaling": torch.tensor(1.0, dtype=torch.float64)}


CASES = {
    "pissa-wide": of_peft(weight(24, 40, 1), lora_alpha=6, init_lora_weights="pissa"),
    "pissa-tall": of_peft(weight(40, 24, 2), lora_alpha=6, init_lora_weights="pissa"),
    "pissa-rslora": of_peft(weight(24, 40, 3), lora_alpha=5, use_rslora=True, init_lora_weights="pissa"),
    "pissa_niter_8-wide": of_peft(weight(24, 40, 4), lora_alpha=6, init_lora_weights="pissa_niter_8"),
    "pissa_niter_8-tall": of_peft(weight(40, 24, 5), lora_alpha=6, init_lora_weights="pissa_niter_8"),
    "olora-wide": of_peft(weight(24, 40, 6), lora_alpha=6, init_lora_weights="olora"),
    "olora-tall": of_peft(weight(40, 24, 7), lora_alpha=6, init_lora_weights="olora"),
    "loftq-1": of_loftq(weight(32, 128, 8), 8, 1),
    "loftq-5": of_loftq(weight(32, 128, 9), 8, 5),
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    tensors = {f"{name}.{key}": value.contiguous().clone() for name, case in CASES.items() for key, value in case.items()}
    save_file(dict(sorted(tensors.items())), Path(__file__).parent / "initializations.safetensors", metadata={"format": "pt"})
