"""Reads, with the ecosystem's own readers, what Ferrotune wrote, and compares.

Every check that is asked for runs; one JSON line with all results is the last line of standard output, and the exit
code is 1 if any of them failed. Run by a developer; the tests of the workspace need no Python.

    check_interop.py --ids ids.json --logits logits.safetensors --base MODEL --adapter ADAPTER
    check_interop.py --ids ids.json --logits logits.safetensors --model MERGED
    check_interop.py --trainer-state checkpoint-10/trainer_state.json
    check_interop.py --tensorboard runs/ [--scalars expected.json]

`ids.json` is a list of rows of token ids and `logits.safetensors` holds `logits` [rows, longest, vocab] f32 with zeros
after the end of shorter rows: what `--ids` and `--logits` of the `score` example take and write. `expected.json` maps a
tag to a list of [step, value].
"""

import argparse
import json
import os
import sys
from pathlib import Path

sys.dont_write_bytecode = True
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch

# What the project promises for f32 logits: the largest difference over the largest expected value.
LOGITS_RELATIVE = 2e-5
# TensorBoard stores scalars as f32.
SCALAR_RELATIVE = 1e-6


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ids", type=Path)
    parser.add_argument("--logits", type=Path)
    parser.add_argument("--base", type=Path, help="model folder under the adapter")
    parser.add_argument("--adapter", type=Path, help="PEFT folder")
    parser.add_argument("--model", type=Path, help="whole model folder, a merged one for example")
    parser.add_argument("--trainer-state", type=Path)
    parser.add_argument("--tensorboard", type=Path)
    parser.add_argument("--scalars", type=Path)
    parser.add_argument("--tolerance", type=float, default=LOGITS_RELATIVE)
    chosen = parser.parse_args()
    if chosen.adapter and not chosen.base:
        parser.error("--adapter needs --base")
    if (chosen.adapter or chosen.model) and not (chosen.ids and chosen.logits):
        parser.error("--adapter and --model need --ids and --logits")
    if not (chosen.adapter or chosen.model or chosen.trainer_state or chosen.tensorboard):
        parser.error("nothing to check")
    return chosen


def load_model(folder):
    from transformers import AutoModelForCausalLM

    model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    strangers = {kind: sorted(report[kind]) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") if report[kind]}
    return model.eval(), strangers


def load_adapter(base, folder):
    """PEFT only warns of keys that it does not know or does not find: here they fail."""
    from peft import PeftConfig, get_peft_model
    from peft.utils.save_and_load import load_peft_weights, set_peft_model_state_dict

    model, strangers = load_model(base)
    config = PeftConfig.from_pretrained(folder)
    wrapped = get_peft_model(model, config)
    outcome = set_peft_model_state_dict(wrapped, load_peft_weights(folder, device="cpu"))
    absent = [key for key in outcome.missing_keys if "lora_" in key or "modules_to_save" in key]
    if absent:
        strangers["missing_adapter_keys"] = absent
    if outcome.unexpected_keys:
        strangers["unexpected_adapter_keys"] = list(outcome.unexpected_keys)
    return wrapped.eval(), strangers


@torch.no_grad()
def compare_logits(model, strangers, ids, found, tolerance):
    from safetensors.torch import load_file

    rows, found = json.loads(ids.read_text()), load_file(found)["logits"]
    width = max(map(len, rows))
    if list(found.shape[:2]) != [len(rows), width]:
        return {"ok": False, "found_shape": list(found.shape), "expected_shape": [len(rows), width, model.config.vocab_size]}
    worst = largest = 0.0
    for row, ours in zip(rows, found):
        theirs = model(input_ids=torch.tensor([row])).logits[0]
        worst = max(worst, (ours[: len(row)] - theirs).abs().max().item())
        largest = max(largest, theirs.abs().max().item())
    relative = worst / largest
    return {"ok": relative <= tolerance and not strangers, "relative": relative, "tolerance": tolerance, **strangers}


def check_trainer_state(path):
    from transformers import TrainerState

    state = TrainerState.load_from_json(str(path))
    steps = [row["step"] for row in state.log_history]
    faults = []
    if any("epoch" not in row for row in state.log_history):
        faults.append("a row of log_history has no epoch")
    if steps != sorted(steps):
        faults.append("log_history is not in the order of its steps")
    if steps and steps[-1] > state.global_step:
        faults.append(f"log_history reaches step {steps[-1]}, global_step is {state.global_step}")
    if state.max_steps and state.global_step > state.max_steps:
        faults.append(f"global_step {state.global_step} is beyond max_steps {state.max_steps}")
    unknown = sorted(set(json.loads(path.read_text())) - set(vars(state)))
    return {"ok": not faults, "faults": faults, "unknown_keys": unknown, "global_step": state.global_step,
            "epoch": state.epoch, "rows": len(steps)}


def check_tensorboard(folder, scalars):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files = sorted(folder.rglob("events.out.tfevents.*"))
    found = {}
    for file in files:
        events = EventAccumulator(str(file), size_guidance={"scalars": 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            found.setdefault(tag, []).extend((event.step, event.value) for event in events.Scalars(tag))
    result = {"ok": bool(found), "files": len(files), "tags": {tag: len(rows) for tag, rows in sorted(found.items())}}
    if scalars:
        faults = []
        for tag, rows in json.loads(scalars.read_text()).items():
            theirs = dict(found.get(tag, []))
            for step, value in rows:
                if step not in theirs or abs(theirs[step] - value) > SCALAR_RELATIVE * max(abs(value), 1e-30):
                    faults.append({"tag": tag, "step": step, "expected": value, "found": theirs.get(step)})
        result |= {"ok": result["ok"] and not faults, "faults": faults[:10]}
    return result


def attempt(check, *values):
    """A reader that throws is a failed check with its sentence, not a traceback."""
    try:
        return check(*values)
    except Exception as error:
        return {"ok": False, "error": f"{type(error).__name__}: {error}"}


def main():
    torch.set_num_threads(1)
    chosen, results = arguments(), {}
    if chosen.adapter:
        results["adapter"] = attempt(lambda: compare_logits(
            *load_adapter(chosen.base, chosen.adapter), chosen.ids, chosen.logits, chosen.tolerance))
    if chosen.model:
        results["model"] = attempt(lambda: compare_logits(
            *load_model(chosen.model), chosen.ids, chosen.logits, chosen.tolerance))
    if chosen.trainer_state:
        results["trainer_state"] = attempt(check_trainer_state, chosen.trainer_state)
    if chosen.tensorboard:
        results["tensorboard"] = attempt(check_tensorboard, chosen.tensorboard, chosen.scalars)
    print(json.dumps({"ok": all(result["ok"] for result in results.values()), **results}))
    sys.exit(0 if all(result["ok"] for result in results.values()) else 1)


if __name__ == "__main__":
    main()
