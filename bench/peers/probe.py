#!/usr/bin/env python3
"""What this machine's matrix units reach, and what the peers are: prints JSON. probe.py [--threads 2]

The peak is the best of several products [2048, 1024] x [1024, 1024] by torch, in GFLOP per CPU-second of these threads, so
that other work on the machine hardly moves it.
"""
import argparse
import json
import os
import time
from importlib.metadata import version

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--threads", type=int, default=2)
threads = parser.parse_args().threads
os.environ.update(OMP_NUM_THREADS=str(threads), GOMP_SPINCOUNT="1000", CUDA_VISIBLE_DEVICES="")
import torch  # noqa: E402  (the environment above must be set first)

REPEATS = 40
torch.set_num_threads(threads)


def best(dtype):
    a, b = torch.randn(2048, 1024).to(dtype), torch.randn(1024, 1024).to(dtype)
    seconds = []
    for _ in range(REPEATS):
        begin = time.process_time()
        torch.matmul(a, b)
        seconds.append(time.process_time() - begin)
    return round(2 * 2048 * 1024 * 1024 / min(seconds) * 1e-9, 1)


print(json.dumps({"gflop_per_cpu_second": {"fp32": best(torch.float32), "bf16": best(torch.bfloat16)},
                  "versions": {name: version(name) for name in ("torch", "transformers", "peft")}}))
