"""bitsandbytes on the CPU, for benches/nf4.rs: reads "SETTING: OPERATION" from each line, makes a run of it, prints its seconds.

A run is the operation once to warm up and seven times under the clock; its median counts. In the setting "after other work" a dense
product of one row with another matrix goes before each call, outside its time.

The first line is a JSON object: {"size": rows and columns of the matrix, "threads": threads}.
"""
import json
import sys
import time

import bitsandbytes as bnb
import bitsandbytes.functional as F
import torch

setup = json.loads(sys.stdin.readline())
size = setup["size"]
torch.set_num_threads(setup["threads"])
torch.manual_seed(0)
settings = dict(blocksize=64, quant_type="nf4", compress_statistics=True)
weight = torch.randn(size, size)
packed, state = F.quantize_4bit(weight, **settings)
linear = bnb.nn.Linear4bit(size, size, bias=False, quant_type="nf4", compress_statistics=True, compute_dtype=torch.float32)
linear.weight = bnb.nn.Params4bit(weight.clone(), requires_grad=False, quant_type="nf4", compress_statistics=True)
linear = linear.to("cpu").eval()
activations = {m: torch.randn(m, size) for m in (1, 8, 16, 256)}

operations = {
    "quantize": lambda: F.quantize_4bit(weight, **settings),
    "dequantize": lambda: F.dequantize_4bit(packed, state),
    "linear4bit 1": lambda: linear(activations[1]),
}
for m, x in activations.items():
    operations[f"product {m}"] = lambda x=x: bnb.matmul_4bit(x, packed.t(), quant_state=state)

other = torch.randn(size, size)


def run(operation, after_other_work, calls=7):
    seconds = []
    for _ in range(calls + 1):
        if after_other_work:
            torch.nn.functional.linear(activations[1], other)
        start = time.perf_counter()
        operation()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds[1:])[calls // 2]


with torch.no_grad():
    print(json.dumps({"bitsandbytes": bnb.__version__, "torch": torch.__version__}), flush=True)
    for line in sys.stdin:
        setting, name = line.strip().split(": ")
        print(run(operations[name], setting == "after other work"), flush=True)
