#!/usr/bin/env python3
"""Records what bitsandbytes (0.50.2, on the CPU) makes of small matrices, and 4-bit directories of the recorded models.

  record.py  (with torch, transformers 5.23, accelerate, safetensors and bitsandbytes installed)

README.md says what the files hold.
"""
import json
import os
import shutil

import bitsandbytes.functional as bnb
import bitsandbytes.nn.modules
import torch
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
from bitsandbytes.backends.utils import _get_4bit_code
from safetensors.torch import load_file, save_file
from transformers import (AutoModelForCausalLM, AutoModelForSequenceClassification, BitsAndBytesConfig)

HERE = os.path.dirname(os.path.abspath(__file__))
MODELS = os.path.join(HERE, "..", "models")
torch.set_num_threads(1)
# Its own layout for some processors needs widths that small models do not have.
bitsandbytes.nn.modules.has_avx512bf16 = lambda: False


# Its kernel for AVX-512 takes wrong scales where rows are no multiple of 64 wide; this is its own code for every device.
def dequantise(codes, absmax, blocksize, quant_type, shape, dtype):
    return _dequantize_4bit_compute(codes.reshape(-1), absmax, _get_4bit_code(quant_type, codes.device), blocksize, shape,
                                    dtype)


override = torch.library.Library("bitsandbytes", "IMPL")
override.impl("dequantize_4bit", dequantise, "CPU", allow_override=True)


def matrices():
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(shape, generator=generator) * 0.02

    all_of_them = {
        "plain": draw(24, 40),
        "rest": draw(6, 22),  # the last block has 4 numbers
        "odd": draw(7, 9),  # one block, and half a byte stays empty
        "many": draw(132, 128).bfloat16(),  # two blocks of absmax
        "outliers": draw(16, 32),
        "zeros": draw(4, 64),
        "ties": torch.arange(-64, 64).float().reshape(2, 64) / 64,
    }
    all_of_them["outliers"][3, 5] = 7.5
    all_of_them["zeros"][1] = 0
    tensors = {}
    for name, matrix in all_of_them.items():
        tensors[name] = matrix.contiguous()
        for double in (True, False):
            codes, state = bnb.quantize_4bit(matrix.float(), quant_type="nf4", compress_statistics=double, blocksize=64)
            scope = f"{name}.{'double' if double else 'single'}"
            tensors[f"{scope}.weight"] = codes
            for key, value in state.as_dict(packed=True).items():
                tensors[f"{scope}.weight.{key}"] = value.contiguous()
            tensors[f"{scope}.dequantised"] = bnb.dequantize_4bit(codes, state).contiguous()
    save_file(tensors, os.path.join(HERE, "matrices.safetensors"))


def model(name, cls, double, **more):
    directory = os.path.join(HERE, name)
    shutil.rmtree(directory, ignore_errors=True)
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=double,
                                bnb_4bit_compute_dtype=torch.float32, **more)
    loaded = cls.from_pretrained(os.path.join(MODELS, name), quantization_config=config, dtype=torch.float32,
                                 device_map="cpu")
    loaded.save_pretrained(directory)
    shutil.rmtree(os.path.join(directory, "__pycache__"), ignore_errors=True)
    again = cls.from_pretrained(directory, device_map="cpu").eval()
    inputs = {key.removeprefix("batch0."): value
              for key, value in load_file(os.path.join(MODELS, name, "inputs.safetensors")).items()
              if key.startswith("batch0.")}
    inputs.pop("labels")
    with torch.no_grad():
        logits = again(**inputs).logits
    save_file({"logits": logits.contiguous()}, os.path.join(directory, "expected.safetensors"))
    if os.path.exists(os.path.join(directory, "generation_config.json")):
        os.remove(os.path.join(directory, "generation_config.json"))
    print(name, json.load(open(os.path.join(directory, "config.json")))["quantization_config"])


matrices()
model("llama", AutoModelForCausalLM, True)
model("gpt2", AutoModelForCausalLM, False)
model("bert-cls", AutoModelForSequenceClassification, True)
