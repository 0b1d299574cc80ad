"""Token ids, masks and labels of every case: right-padded rows of different lengths, prompts and padding not supervised."""

import torch

from deterministic import IGNORE, VOCAB, generator

PAD = 0  # LLaMA 2 has no pad token; the mask, not this id, says what is padding


def batch(name, lengths=(24, 17), prompts=(6, 5), vocabulary=VOCAB):
    """`input_ids`, `attention_mask`, `labels`, each [rows, longest] int64; row i has `lengths[i]` tokens, the first
    `prompts[i]` of them unsupervised. Token ids are drawn from 3..vocabulary; the first is 1 (BOS)."""
    width = max(lengths)
    draw = torch.randint(3, vocabulary, (len(lengths), width), generator=generator(name))
    draw[:, 0] = 1
    position = torch.arange(width)[None, :]
    mask = (position < torch.tensor(lengths)[:, None]).long()
    ids = torch.where(mask.bool(), draw, PAD)
    supervised = mask.bool() & (position >= torch.tensor(prompts)[:, None])
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.where(supervised, ids, IGNORE)}


def supervised_tokens(inputs) -> int:
    """Targets that count: labels after the shift by one."""
    return int((inputs["labels"][:, 1:] != IGNORE).sum())
