"""Writes the golden files of the trainer's tests; see README.md."""

import json
import pathlib
import platform

import safetensors.torch
import torch
import transformers
from transformers.trainer_callback import TrainerState

HERE = pathlib.Path(__file__).parent
torch.set_num_threads(1)


def dump(name, value):
    (HERE / name).write_text(json.dumps(value, indent=1) + "\n")


def schedule(name, rate, warmup, total, steps):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    scheduler = transformers.get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=total)
    rates = []
    for _ in range(steps):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


def schedules():
    cases = []
    for ours, theirs in [("constant", "constant_with_warmup"), ("linear", "linear"), ("cosine", "cosine")]:
        for rate, warmup, total in [(2.5e-5, 3, 97), (1e-3, 0, 20), (1.0, 1, 7), (3e-4, 10, 10), (2e-4, 12, 10)]:
            # A step beyond the last shows the end of the curve.
            rates = schedule(theirs, rate, warmup, total, total + 1)
            cases.append(dict(scheduler=ours, learning_rate=rate, warmup=warmup, total=total, rates=rates))
    rates = schedule("constant", 0.5, 0, 5, 6)
    cases.append(dict(scheduler="constant", learning_rate=0.5, warmup=0, total=5, rates=rates))
    dump("schedules.json", cases)


VOCABULARY, HIDDEN = 11, 6


class Tiny(torch.nn.Module):
    """The model of `tests/it/tiny.rs`."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Parameter(torch.randn(VOCABULARY, HIDDEN))
        self.mix = torch.nn.Parameter(torch.randn(HIDDEN, HIDDEN) * 0.5)
        self.bias = torch.nn.Parameter(torch.randn(HIDDEN) * 0.1)
        self.norm = torch.nn.Parameter(torch.ones(HIDDEN))
        self.head = torch.nn.Parameter(torch.randn(VOCABULARY, HIDDEN) * 0.7)

    def forward(self, ids):
        x = torch.nn.functional.embedding(ids, self.embed)
        x = torch.tanh(torch.nn.functional.linear(x, self.mix, self.bias))
        return torch.nn.functional.linear(x * self.norm, self.head)


def ten_steps():
    torch.manual_seed(20)
    model = Tiny()
    before = {f"before.{name}": tensor.detach().clone() for name, tensor in model.named_parameters()}
    samples, plan = [], []
    for index in range(18):
        length = 3 + (5 * index) % 8
        ids = torch.randint(0, VOCABULARY, (length,)).tolist()
        prompt = 1 + index % 2
        samples.append(dict(ids=ids, supervised=[place >= prompt for place in range(length)]))
    for epoch in range(2):
        order = torch.randperm(len(samples)).tolist()
        plan.append([order[start : start + 2] for start in range(0, len(order), 2)])

    settings = dict(
        epochs=2.0, batch_size=2, gradient_accumulation=2, learning_rate=3e-2, warmup_steps=2, scheduler="cosine",
        weight_decay=0.1, adam_beta1=0.9, adam_beta2=0.99, adam_epsilon=1e-8, max_grad_norm=0.5, logging_steps=1,
    )
    exempt = {"norm", "bias"}
    groups = [
        dict(params=[p for n, p in model.named_parameters() if n not in exempt], weight_decay=0.1),
        dict(params=[p for n, p in model.named_parameters() if n in exempt], weight_decay=0.0),
    ]
    optimizer = torch.optim.AdamW(groups, lr=3e-2, betas=(0.9, 0.99), eps=1e-8)
    scheduler = transformers.get_scheduler("cosine", optimizer, num_warmup_steps=2, num_training_steps=10)
    rows = []
    for batches in plan:
        for start in range(0, len(batches), 2):
            window = batches[start : start + 2]
            count = sum(sum(samples[i]["supervised"][1:]) for batch in window for i in batch)
            total = 0.0
            for batch in window:
                loss = 0.0
                for i in batch:
                    ids = torch.tensor(samples[i]["ids"])
                    labels = ids.clone()
                    labels[~torch.tensor(samples[i]["supervised"])] = -100
                    loss = loss + torch.nn.functional.cross_entropy(
                        model(ids)[:-1], labels[1:], ignore_index=-100, reduction="sum"
                    )
                (loss / count).backward()
                total += loss.item()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            rows.append(dict(loss=total / count, grad_norm=norm.item(), learning_rate=scheduler.get_last_lr()[0]))
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    assert len(rows) == 10 and max(row["grad_norm"] for row in rows) > 0.5
    after = {f"after.{name}": tensor.detach().clone() for name, tensor in model.named_parameters()}
    dump("ten_steps.json", dict(samples=samples, plan=plan, settings=settings, rows=rows))
    safetensors.torch.save_file(before | after, HERE / "ten_steps.safetensors")


def trainer_state():
    rows = [
        dict(epoch=0.1, grad_norm=12.0, learning_rate=0.0, loss=2.3456789012345678, step=1),
        dict(epoch=1 / 3, grad_norm=1e-5, learning_rate=2.5e-5, loss=1e-7, step=2),
        dict(epoch=0.5, grad_norm=123456789.125, learning_rate=1e-4, loss=1e16, step=3),
        dict(epoch=0.75, grad_norm=9999999999999998.0, learning_rate=1.5e-300, loss=5e-324, step=4),
        dict(
            epoch=1.0, eval_loss=1.1, eval_runtime=0.0123, eval_samples_per_second=1234.5, eval_steps_per_second=0.25,
            step=5,
        ),
        dict(
            epoch=1.0, step=5, total_flos=0.0, train_loss=1.7, train_runtime=12.5, train_samples_per_second=1e22,
            train_steps_per_second=0.4,
        ),
    ]
    # Numbers that were single precision, as losses and norms are: their shortest decimals are often a tie. Then some
    # on either side of every power of ten that changes the spelling.
    generator = torch.Generator().manual_seed(5)
    single = (torch.randn(400, generator=generator) * 3).tolist() + [1.9504470825195312, 0.5, -0.25, 100.0]
    for power in range(-6, 19):
        single += [10.0**power, 1.5 * 10.0**power, 9.999999999999999 * 10.0**power]
    # A tie whose even neighbour does not read back equal: the gap below a power of two is half the gap above.
    single += [2.0**power for power in range(-70, 71)] + [9007199254740993.0, 5e-324, 1.7976931348623157e308]
    rows += [dict(epoch=2.0, grad_norm=1.0, learning_rate=0.0, loss=value, step=6) for value in single]
    state = TrainerState(
        epoch=1.0, global_step=5, max_steps=5, logging_steps=1, eval_steps=500, save_steps=5, train_batch_size=4,
        num_train_epochs=1, num_input_tokens_seen=12345, total_flos=0.0, log_history=rows, best_metric=1.1,
        best_global_step=5, best_model_checkpoint="größe/\U0001f980/checkpoint-5",
    )
    state.save_to_json(str(HERE / "trainer_state.json"))


schedules()
ten_steps()
trainer_state()
dump(
    "versions.json",
    dict(python=platform.python_version(), torch=torch.__version__, transformers=transformers.__version__),
)
