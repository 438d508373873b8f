#!/usr/bin/env python3
"""timm's models with random weights, as torch.save writes them, and their logits, for the test "[timm]".

Usage: timm_checkpoints.py DIR; VVTQ_TIMM=DIR build/tests/vvtq_tests "[timm]"
Needs PyPI's torch, timm and safetensors. For each model DIR gets NAME.pth (zip), NAME.legacy.pth and NAME.safetensors, and
NAME.json: our name of the model, the images (2, 3, 224, 224) by a formula, and timm's logits in float64.
"""
import json
import os
import sys

import timm
import torch
from safetensors.torch import save_file

folder = sys.argv[1]
os.makedirs(folder, exist_ok=True)
torch.manual_seed(3)
count = 2 * 3 * 224 * 224
images = torch.sin(torch.arange(count, dtype=torch.float64) * 0.37).reshape(2, 3, 224, 224)
for name, ours in [('deit_tiny_patch16_224', 'deit_tiny_patch16_224'), ('deit_small_patch16_224', 'deit_small_patch16_224'),
                   ('swin_tiny_patch4_window7_224', 'swin_tiny_patch4_window7_224')]:
    model = timm.create_model(name, pretrained=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms start at constants
            parameter.add_(torch.randn_like(parameter) * 0.02)
        logits = model.double()(images)
    model.float()
    state = model.state_dict()
    torch.save({'model': state, 'epoch': 1}, f'{folder}/{name}.pth')
    torch.save(state, f'{folder}/{name}.legacy.pth', _use_new_zipfile_serialization=False)
    save_file({k: v.clone() for k, v in state.items()}, f'{folder}/{name}.safetensors')
    with open(f'{folder}/{name}.json', 'w') as out:
        json.dump({'model': ours, 'logits': logits.tolist()}, out)
