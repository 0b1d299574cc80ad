"""Reads, with transformers and bitsandbytes, 4-bit folders that Ferrotune wrote, and compares.

    check_quantized.py --folder OURS --dense SOURCE [--ids ids.json --logits logits.safetensors]

`OURS` is what the `quantize` example made of `SOURCE`. Every 4-bit tensor is unpacked by bitsandbytes and held against what
bitsandbytes' own quantizer makes of the dense one: decoded values, scales, and codes. Of a Mixtral, whose experts
transformers and bitsandbytes leave dense, this is the whole check. With `--ids` and `--logits` (what the `score` example
takes and writes for `OURS`) a LLaMA is also loaded by `from_pretrained` and gives its logits.

One JSON line with all results is the last line of standard output; the exit code is 1 if a check failed. Run by a
developer; the tests of the workspace need no Python.
"""

import argparse
import json
import os
import sys
from pathlib import Path

sys.dont_write_bytecode = True
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import bitsandbytes.functional as F
import torch
from safetensors import safe_open

# What the project promises for f32 logits: the largest difference over the largest expected value.
LOGITS_RELATIVE = 2e-5
# Scales in 8 bits: the compiled CPU backend looks codes up in bins where ours, like the default backend's, follow midpoints
# (docs/nf4.md, section 7), and sums their mean in another order. So a few codes are neighbours of ours.
SCALE_CODES = 0.02
STATE = ".quant_state.bitsandbytes__"


class Folder:
    def __init__(self, folder):
        index = folder / "model.safetensors.index.json"
        names = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.is_file() else ["model.safetensors"]
        self.files = [safe_open(folder / name, "pt") for name in names]
        self.at = {key: file for file in self.files for key in file.keys()}

    def __getitem__(self, key):
        return self.at[key].get_tensor(key)


def dequantize(packed, state):
    """By the default backend: the compiled CPU backend takes the wrong scales where rows are no whole blocks."""
    from bitsandbytes.backends.default.ops import _dequantize_4bit_compute

    absmax = F.dequantize_blockwise(state.absmax, state.state2) + state.offset if state.nested else state.absmax
    codes = packed.view(torch.uint8).reshape(-1)
    return _dequantize_4bit_compute(codes, absmax, state.code, state.blocksize, state.shape, state.dtype), absmax


def compare_tensors(folder, source):
    ours, dense = Folder(folder), Folder(source)
    result = {"tensors": 0, "weights": 0, "codes_that_differ": 0, "scale_codes": 0, "scale_codes_that_differ": 0,
              "worst_weight": 0.0, "faults": []}
    for key in sorted(ours.at):
        if STATE not in key:
            continue
        name = key.split(STATE)[0]
        parts = {part[len(name) + 1:]: ours[part] for part in ours.at if part.startswith(name + ".")}
        state = F.QuantState.from_dict(parts, "cpu")
        weight = dense[name]
        if list(state.shape) != list(weight.shape) or state.dtype != weight.dtype:
            result["faults"].append(f"{name}: {state.shape} {state.dtype}")
            continue
        packed, theirs = F.quantize_4bit(weight, blocksize=state.blocksize, quant_type=state.quant_type,
                                         compress_statistics=state.nested)
        (found, found_scales), (expected, expected_scales) = dequantize(ours[name], state), dequantize(packed, theirs)
        codes = lambda bytes: torch.stack([bytes >> 4, bytes & 15], 1).flatten()
        differ = codes(ours[name].view(torch.uint8).flatten()) != codes(packed.flatten())
        # FP4's two zeros are one number; see docs/nf4.md.
        differ &= found.flatten() != expected.flatten() if not state.nested else True
        if state.nested:
            apart = (parts["absmax"].int() - theirs.absmax.int()).abs()
            result["scale_codes"] += apart.numel()
            result["scale_codes_that_differ"] += int((apart > 0).sum())
            if apart.max() > 1:
                result["faults"].append(f"{name}: a scale is {int(apart.max())} codes away")
        elif not torch.equal(found_scales, expected_scales):
            result["faults"].append(f"{name}: scales differ")
        result["tensors"] += 1
        result["weights"] += weight.numel()
        result["codes_that_differ"] += int(differ.sum())
        result["worst_weight"] = max(result["worst_weight"],
                                     ((found.float() - expected.float()).abs().max() / expected.float().abs().max()).item())
    tied = json.loads((source / "config.json").read_text()).get("tie_word_embeddings")
    for name in dense.at:
        if tied and name == "lm_head.weight":
            continue  # the embedding, stored once
        if name + STATE + "nf4" not in ours.at and name + STATE + "fp4" not in ours.at:
            if name not in ours.at or not torch.equal(ours[name], dense[name]):
                result["faults"].append(f"{name}: not copied")
    result["ok"] = (result["tensors"] > 0 and not result["faults"] and result["codes_that_differ"] == 0
                    and result["scale_codes_that_differ"] <= SCALE_CODES * result["scale_codes"])
    return result


@torch.no_grad()
def compare_logits(folder, ids, logits):
    import bitsandbytes as bnb
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    strangers = {kind: sorted(keys) for kind, keys in report.items() if keys}
    quantized = 0
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            quantized += 1
            module.support_avx512bf16_for_cpu = False  # repacks in eval with scales rounded to bf16
            if module.in_features % module.weight.quant_state.blocksize:
                weight = dequantize(module.weight.data, module.weight.quant_state)[0]
                module.forward = lambda x, weight=weight, bias=module.bias: torch.nn.functional.linear(
                    x, weight.to(x.dtype), bias)
    for parameter in model.parameters():
        if not isinstance(parameter, bnb.nn.Params4bit) and parameter.is_floating_point():
            parameter.data = parameter.data.float()
    model.eval()
    rows, found = json.loads(ids.read_text()), load_file(logits)["logits"]
    worst = largest = 0.0
    for row, ours in zip(rows, found):
        theirs = model(input_ids=torch.tensor([row])).logits[0]
        worst = max(worst, (ours[: len(row)] - theirs).abs().max().item())
        largest = max(largest, theirs.abs().max().item())
    relative = worst / largest
    return {"ok": relative <= LOGITS_RELATIVE and quantized > 0 and not strangers, "relative": relative,
            "quantized_modules": quantized, **strangers}


def main():
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--dense", type=Path, required=True)
    parser.add_argument("--ids", type=Path)
    parser.add_argument("--logits", type=Path)
    chosen = parser.parse_args()
    results = {"tensors": compare_tensors(chosen.folder, chosen.dense)}
    if chosen.logits:
        results["logits"] = compare_logits(chosen.folder, chosen.ids, chosen.logits)
    ok = all(result["ok"] for result in results.values())
    print(json.dumps({"ok": ok, **results}))
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
