"""What transformers and bitsandbytes compute from 4-bit folders that Ferrotune wrote: ours/expected.safetensors.

The folders are inputs here. The example `quantize` writes them, and a test holds that it still writes these bytes:

    quantize --model models/llama-gqa --output ours/llama-gqa-nf4
    quantize --model models/llama-bf16 --type fp4 --block-size 32 --double-quant false --max-shard-size 8kB --output ours/llama-bf16-fp4
"""

import bitsandbytes as bnb
import torch
from transformers import AutoModelForCausalLM

from batches import batch
from deterministic import HERE, write_tensors
from quantized import exact

FOLDER = HERE / "ours"

# Folder -> Linear layers in 4 bits: seven in each of two layers.
FOLDERS = {"llama-gqa-nf4": 14, "llama-bf16-fp4": 14}


@torch.no_grad()
def logits(name, four_bit, ids):
    model, report = AutoModelForCausalLM.from_pretrained(FOLDER / name, output_loading_info=True)
    assert not any(report.values()), report  # nothing missing, nothing unknown
    layers = [module for module in model.modules() if isinstance(module, bnb.nn.Linear4bit)]
    assert len(layers) == four_bit and all(layer.weight.quant_state for layer in layers)
    return exact(model)(input_ids=ids).logits


@torch.no_grad()
def check_rows():
    """Why `quantize` counts matrices whose rows are no whole blocks: the compiled CPU backend decodes them wrongly, and the
    default one does not."""
    weight = torch.randn(64, 112, generator=torch.Generator().manual_seed(0))
    packed, state = bnb.functional.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    flat, flat_state = bnb.functional.quantize_4bit(weight.reshape(-1, 64), blocksize=64, quant_type="nf4")
    assert torch.equal(packed, flat) and torch.equal(state.absmax, flat_state.absmax)
    wrong = bnb.functional.dequantize_4bit(packed, state) - weight
    right = bnb.functional.dequantize_4bit(flat, flat_state).reshape(weight.shape) - weight
    errors = [(error.norm() / weight.norm()).item() for error in (wrong, right)]
    assert errors[0] > 2 * errors[1], errors
    print("rows that are no whole blocks: relative errors", errors)


def write_all():
    check_rows()
    expected = {}
    for name, four_bit in FOLDERS.items():
        ids = batch(name, (12, 12))["input_ids"]
        expected |= {f"{name}.input_ids": ids, f"{name}.logits": logits(name, four_bit, ids)}
    write_tensors(FOLDER / "expected.safetensors", expected)
