"""Writes bitsandbytes.safetensors: what bitsandbytes' CPU backend makes of five tensors, for every block size.

    python generate.py

See README.md for versions. Deterministic: the random numbers come from a seeded generator.
"""
import importlib
import pathlib

import bitsandbytes
import bitsandbytes._ops as ops
import bitsandbytes.functional as F
import torch
from safetensors.torch import save_file

torch.set_num_threads(1)
BLOCK_SIZES = [32, 64, 128, 256, 512, 1024, 2048, 4096]
generator = torch.Generator().manual_seed(20)


def random(n):
    return torch.randn(n, generator=generator)


def default_quantize_blockwise():
    """The backend without compiled code, whose rule (nearest, ties to the lower code) is the one we follow."""
    found, register = {}, ops.register_kernel

    def capture(name, device):
        return lambda function: found.setdefault(name.split("::")[1], function)

    ops.register_kernel = capture
    importlib.reload(importlib.import_module("bitsandbytes.backends.default.ops"))
    ops.register_kernel = register
    return found["quantize_blockwise"]


def tied(quant_type, n):
    """Every bound of the quantizer and its two neighbours in fp32, under a scale of exactly one."""
    table = F.get_4bit_type(quant_type, "cpu").sort().values
    bounds = (table[:-1] + table[1:]) / 2
    up, down = torch.full_like(bounds, torch.inf), torch.full_like(bounds, -torch.inf)
    values = torch.cat([bounds, torch.nextafter(bounds, up), torch.nextafter(bounds, down), table])
    out = values.repeat(n // len(values) + 1)[:n].clone()
    out[::32] = 1.0
    return out


# The last block is short for every block size: 4,096 + 1,184 = 5,280 is a multiple of 32 and of nothing larger.
inputs = {
    "random": random(4096 * 2),
    "odd": random(4096 + 1184 + 13),
    "subnormal": random(4096) * 2e-39,
    "zero": torch.zeros(4096 + 96),
}
inputs["zero"][200:264] = random(64)
tensors = {f"input.{name}": value for name, value in inputs.items()}
for quant_type in ("nf4", "fp4"):
    tensors[f"{quant_type}.table"] = F.get_4bit_type(quant_type, "cpu")
    tensors[f"input.tied_{quant_type}"] = tied(quant_type, 4096)
    cases = {**inputs, "tied": tensors[f"input.tied_{quant_type}"]}
    for size in BLOCK_SIZES:
        for name, weights in cases.items():
            packed, state = F.quantize_4bit(weights, blocksize=size, quant_type=quant_type)
            key = f"{quant_type}.{size}.{name}"
            tensors[f"{key}.packed"] = packed.flatten()
            tensors[f"{key}.absmax"] = state.absmax
    # Decoding, with double quantization, into the three types; and 16-bit weights.
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        label = str(dtype).split(".")[1]
        weights = inputs["random"][:4096].to(dtype)
        packed, state = F.quantize_4bit(weights, blocksize=64, quant_type=quant_type, compress_statistics=True)
        key = f"{quant_type}.nested.{label}"
        tensors[f"{key}.packed"] = packed.flatten()
        tensors[f"{key}.absmax"] = state.absmax
        tensors[f"{key}.nested_absmax"] = state.state2.absmax
        tensors[f"{key}.nested_offset"] = state.offset.reshape(1)
        tensors[f"{key}.decoded"] = F.dequantize_4bit(packed, state)

# The second level alone, on scales like those of a layer. The last block of 256 is short.
scales = random(64 * 1500).view(1500, 64).abs().amax(1) * 0.02
offset = scales.mean()
tensors["dynamic.map"] = F.create_dynamic_map()
tensors["dynamic.scales"] = scales
tensors["dynamic.offset"] = offset.reshape(1)
codes, state = F.quantize_blockwise(scales - offset, blocksize=256)
tensors["dynamic.cpu.codes"], tensors["dynamic.cpu.absmax"] = codes, state.absmax
tensors["dynamic.cpu.decoded"] = F.dequantize_blockwise(codes, state) + offset
codes, absmax = default_quantize_blockwise()(scales - offset, F.create_dynamic_map(), 256)
tensors["dynamic.default.codes"], tensors["dynamic.default.absmax"] = codes, absmax

path = pathlib.Path(__file__).with_name("bitsandbytes.safetensors")
metadata = {"bitsandbytes": bitsandbytes.__version__, "torch": torch.__version__}
save_file({name: value.contiguous() for name, value in tensors.items()}, path, metadata)
print(path.name, path.stat().st_size, "bytes", metadata)
