"""Writes adamw.json: ten steps of torch.optim.AdamW on given gradients.

    python generate.py

The parameters and gradients are written out in full, so that the test needs no generator of ours to agree with torch's.
"""

import json
import pathlib

import torch

torch.manual_seed(20)
torch.set_num_threads(1)

OPTIONS = {"lr": 2.5e-2, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}
SHAPES = [[3, 4], [5]]
STEPS = 10


def flat(tensor):
    return [float(value) for value in tensor.detach().flatten()]


parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]
start = [flat(parameter) for parameter in parameters]
optimizer = torch.optim.AdamW(
    parameters,
    lr=OPTIONS["lr"],
    betas=(OPTIONS["beta1"], OPTIONS["beta2"]),
    eps=OPTIONS["eps"],
    weight_decay=OPTIONS["weight_decay"],
    fused=False,
    foreach=False,
)
gradients, expected = [], []
for step in range(STEPS):
    for parameter in parameters:
        # Spread over four orders of magnitude, so that the root and the epsilon matter.
        parameter.grad = torch.randn(parameter.shape) * 10.0 ** (-(step % 5))
    gradients.append([flat(parameter.grad) for parameter in parameters])
    optimizer.step()
    expected.append([flat(parameter) for parameter in parameters])

path = pathlib.Path(__file__).with_name("adamw.json")
path.write_text(
    json.dumps(
        {
            "torch": torch.__version__,
            "options": OPTIONS,
            "shapes": SHAPES,
            "start": start,
            "gradients": gradients,
            "expected": expected,
        }
    )
    + "\n"
)
