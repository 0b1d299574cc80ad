"""Loads adapters and merged checkpoints that Ferrotune wrote with PEFT's and transformers' readers and compares logits.

    FERROTUNE_INTEROP=/some/folder cargo test -p ferrotune-adapters adapters_for_pefts_own_reader
    python check_peft.py /some/folder

Run by a developer. Prints one JSON line per adapter and ends with code 1 if one of them differs by more than 2e-5 of
the largest logit, misses a tensor or leaves one unread.
"""

import json
import os
import sys
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

LOGITS_RELATIVE = 2e-5


@torch.no_grad()
def check(folder):
    base = AutoModelForCausalLM.from_pretrained((folder / "base").read_text(), dtype=torch.float32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(base, folder / "adapter").eval()
    complaints = [str(warning.message) for warning in caught if "adapter keys" in str(warning.message)]
    merged, report = AutoModelForCausalLM.from_pretrained(folder / "merged", dtype=torch.float32, output_loading_info=True)
    complaints += [f"{kind}: {sorted(keys)}" for kind, keys in report.items() if keys]
    ids = torch.tensor(json.loads((folder / "ids.json").read_text()))
    found = load_file(folder / "logits.safetensors")["logits"]

    def relative(expected):
        return ((found - expected).abs().max() / expected.abs().max()).item()

    result = {"adapter": folder.name, "relative": relative(model(input_ids=ids).logits),
              "merged_relative": relative(merged(input_ids=ids).logits), "complaints": complaints}
    worst = max(result["relative"], result["merged_relative"])
    return result | {"ok": worst <= LOGITS_RELATIVE and not complaints}


def main():
    torch.set_num_threads(1)
    results = []
    for folder in sorted(Path(sys.argv[1]).iterdir()):
        try:
            results.append(check(folder))
        except Exception as error:
            results.append({"adapter": folder.name, "ok": False, "error": f"{type(error).__name__}: {error}"})
        print(json.dumps(results[-1]))
    sys.exit(0 if results and all(result["ok"] for result in results) else 1)


if __name__ == "__main__":
    main()
