"""Seconds of bitsandbytes' `matmul_4bit` on a GPU, for nf4_cuda.rs.

    python nf4_cuda_reference.py ROWS,COLUMNS,BATCH ...

NF4 in blocks of 64 with double quantization, bf16; the median over 9 rounds of 100 launches. One JSON object is the last line.
"""
import json
import statistics
import sys
import time

import bitsandbytes
import bitsandbytes.functional as F
import torch

ROUNDS, LAUNCHES = 9, 100
found = {}
with torch.no_grad():
    for rows, columns, batch in (map(int, case.split(",")) for case in sys.argv[1:]):
        weight = torch.randn(rows, columns, dtype=torch.bfloat16, device="cuda") * 0.02
        packed, state = F.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True)
        x = torch.randn(batch, columns, dtype=torch.bfloat16, device="cuda")
        seconds = []
        for _ in range(ROUNDS + 1):
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(LAUNCHES):
                bitsandbytes.matmul_4bit(x, packed.t(), quant_state=state)
            torch.cuda.synchronize()
            seconds.append((time.perf_counter() - start) / LAUNCHES)
        found[f"[{rows}, {columns}] x {batch}"] = statistics.median(seconds[1:])
print(json.dumps(found))
