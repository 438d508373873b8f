#!/usr/bin/env python3
"""Checkpoints of timm give timm's logits, and torch reads ours.

Usage: timm_test.py VVTQ [DIR]. Ends with 77 (skipped) where torch, timm, safetensors or Pillow are not there.
"""
import json
import os
import subprocess
import sys
import tempfile

try:
    import numpy as np
    import timm
    import torch
    import torch.nn.functional as F
    from PIL import Image
    from safetensors.torch import load_file, save_file
except ImportError as error:
    print(f'skipped: {error}')
    sys.exit(77)

vvtq = os.path.abspath(sys.argv[1])
folder = sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp()
os.makedirs(folder, exist_ok=True)
failures = []


def check(what, good):
    print(('good: ' if good else 'FAILED: ') + what, flush=True)
    if not good:
        failures.append(what)


def run(*arguments):
    done = subprocess.run([vvtq, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        print(done.stdout, done.stderr)
        raise SystemExit(f'vvtq {arguments[0]} ended with {done.returncode}')
    return done.stdout


def logits_of(checkpoint, precision, images, *flags):
    out = run('predict', checkpoint, *images, '--whole', '--json', '--logits', '--topk', 5, '--device', 'cpu', '--precision',
              precision, *flags)
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line['path'] for line in lines] == list(images)
    for line in lines:
        assert len(line['top']) == 5 and line['top'][0]['index'] == int(np.argmax(line['logits']))
    return torch.tensor([line['logits'] for line in lines], dtype=torch.float64)


def relative(a, b):
    return float((a - b).abs().max() / b.abs().max())


def make_images(size):
    names, pixels = [], []
    for i in range(3):
        values = np.random.default_rng([size, i]).integers(0, 256, (size, size, 3), dtype=np.uint8)
        names.append(f'{folder}/image_{size}_{i}.png')
        Image.fromarray(values).save(names[-1])
        pixels.append(torch.from_numpy(values).permute(2, 0, 1).double() / 255)
    mean = torch.tensor([.485, .456, .406], dtype=torch.float64).reshape(3, 1, 1)
    std = torch.tensor([.229, .224, .225], dtype=torch.float64).reshape(3, 1, 1)
    return names, (torch.stack(pixels) - mean) / std


def make_model(name, **sizes):
    torch.manual_seed(3)
    model = timm.create_model(name, pretrained=False, **sizes).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms start at constants
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return model


def logits_of_timm(model, pictures):
    with torch.no_grad():
        return model.double()(pictures)


images, pictures = make_images(224)
states = {}
for name in ['deit_tiny_patch16_224', 'deit_small_patch16_224', 'deit_tiny_distilled_patch16_224',
             'swin_tiny_patch4_window7_224']:
    model = make_model(name)
    state = states[name] = {k: v.clone() for k, v in model.state_dict().items()}
    torch.save({'model': state, 'epoch': 1}, f'{folder}/{name}.pth')
    torch.save(state, f'{folder}/{name}.legacy.pth', _use_new_zipfile_serialization=False)
    save_file(state, f'{folder}/{name}.safetensors')
    expected = logits_of_timm(model, pictures)
    for ending in ['.pth', '.legacy.pth', '.safetensors']:
        error = relative(logits_of(f'{folder}/{name}{ending}', 'fp64', images, '--model', name), expected)
        check(f'{name}{ending}: logits in f64, {error:.1e}', error <= 1e-10)
    error = relative(logits_of(f'{folder}/{name}.pth', 'fp32', images, '--model', name), expected)
    check(f'{name}.pth: logits in f32, {error:.1e}', error <= 1e-5)
    run('convert', f'{folder}/{name}.pth', f'{folder}/ours.safetensors', '--model', name)
    error = relative(logits_of(f'{folder}/ours.safetensors', 'fp64', images, '--model', name), expected)
    check(f'{name}: logits after convert --model, {error:.1e}', error <= 1e-10)
    run('convert', f'{folder}/{name}.pth', f'{folder}/there.safetensors')
    run('convert', f'{folder}/there.safetensors', f'{folder}/back.pth')
    there, back = load_file(f'{folder}/there.safetensors'), torch.load(f'{folder}/back.pth', weights_only=True)['state_dict']
    same = all(there[k].dtype == v.dtype and torch.equal(there[k], v) and torch.equal(back[k], v) for k, v in state.items())
    check(f'{name}: the same tensors there and back', same and len(there) == len(back) == len(state))

# another number of classes
model = make_model('deit_tiny_patch16_224', num_classes=7)
torch.save(model.state_dict(), f'{folder}/seven.pth')
error = relative(logits_of(f'{folder}/seven.pth', 'fp64', images, '--model', 'deit_tiny_patch16_224'), logits_of_timm(model, pictures))
check(f'seven classes: logits in f64, {error:.1e}', error <= 1e-10)

# another picture size: class token apart, bicubic with antialiasing; timm resizes in f32
for size in [176, 288]:
    larger, large_pictures = make_images(size)
    model = make_model('deit_tiny_patch16_224', img_size=size)
    state = dict(states['deit_tiny_patch16_224'])
    model.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(dict(state), model))
    error = relative(logits_of(f'{folder}/deit_tiny_patch16_224.pth', 'fp64', larger, '--model', 'deit_tiny_patch16_224',
                               '--img-size', size), logits_of_timm(model, large_pictures))
    check(f'deit_tiny at {size}: logits in f64, {error:.1e}', error <= 1e-5)
larger, large_pictures = make_images(256)
model = make_model('swin_tiny_patch4_window7_224', img_size=256, window_size=8)
state = {k: v for k, v in states['swin_tiny_patch4_window7_224'].items() if 'index' not in k and 'mask' not in k}
for key, value in state.items():
    if key.endswith('bias_table'):
        grid = value.double().T.reshape(1, -1, 13, 13)
        grid = F.interpolate(grid, (15, 15), mode='bicubic', align_corners=False)
        state[key] = grid.reshape(-1, 225).T
model = model.double()
model.load_state_dict(state, strict=False)
error = relative(logits_of(f'{folder}/swin_tiny_patch4_window7_224.pth', 'fp64', larger, '--model', 'swin_tiny_patch4_window7_224',
                           '--img-size', 256, '--window-size', 8), logits_of_timm(model, large_pictures))
check(f'swin_tiny at 256 with windows of 8: logits in f64, {error:.1e}', error <= 1e-8)

# element types
for container in [True, False]:
    types = {str(t)[6:]: (torch.arange(6) % 2).reshape(2, 3).to(t)
             for t in [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
                       torch.uint8, torch.bool, torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2]}
    torch.save(types, f'{folder}/types.pth', _use_new_zipfile_serialization=container)
    run('convert', f'{folder}/types.pth', f'{folder}/types.safetensors')
    run('convert', f'{folder}/types.safetensors', f'{folder}/types_back.pth')
    one, two = load_file(f'{folder}/types.safetensors'), torch.load(f'{folder}/types_back.pth', weights_only=True)['state_dict']
    good = all(one[k].dtype == v.dtype and torch.equal(one[k].double(), v.double()) and two[k].dtype == v.dtype and
               torch.equal(two[k].double(), v.double()) for k, v in types.items())
    check(f'{len(one)} element types, {"zip" if container else "legacy"}', good and len(one) == len(types))

# a checkpoint of a run
os.makedirs(f'{folder}/data', exist_ok=True)
for split in ['train', 'val']:
    for label in range(3):
        os.makedirs(f'{folder}/data/{split}/class{label}', exist_ok=True)
        for i in range(8):
            values = np.random.default_rng([label, i]).integers(0, 80 * (label + 1), (28, 28, 3), dtype=np.uint8)
            Image.fromarray(values).save(f'{folder}/data/{split}/class{label}/{i}.png')
run('train', '--data', f'{folder}/data', '--model', 'deit_nano_patch4_28', '--wbits', 3, '--abits', 4, '-b', 8, '--epochs', 1,
    '--warmup-epochs', 0, '--device', 'cpu', '--save_checkpoint_path', f'{folder}/run')
ours = f'{folder}/run/checkpoint.safetensors'
state = {k: v for k, v in load_file(ours).items() if not k.startswith('optimizer.')}
run('convert', ours, f'{folder}/run.pth')
loaded = torch.load(f'{folder}/run.pth', weights_only=True)
check('our .pth: weights_only, values equal', loaded['state_dict'].keys() == state.keys() and
      all(torch.equal(loaded['state_dict'][k], v) for k, v in state.items()))
groups = loaded['optimizer']['param_groups']
parameters = [[torch.nn.Parameter(state[n].clone()) for n in g['param_names']] for g in groups]
optimizer = torch.optim.AdamW([{'params': p} for p in parameters])
optimizer.load_state_dict(loaded['optimizer'])
moments = load_file(ours)
check('torch.optim.AdamW takes the moments', all(
    torch.equal(optimizer.state[p][kind], moments[f'optimizer.{n}.{kind}'])
    for ps, g in zip(parameters, groups) for p, n in zip(ps, g['param_names']) for kind in ['exp_avg', 'exp_avg_sq']))
run('convert', f'{folder}/run.pth', f'{folder}/again.safetensors')
again, before = load_file(f'{folder}/again.safetensors'), load_file(ours)
check('there and back: moments too', again.keys() == before.keys() and all(torch.equal(again[k], v) for k, v in before.items()))
val = [f'{folder}/data/val/class0/0.png']
check('predict names the folders\' classes', run('predict', ours, *val, '--device', 'cpu') == run('predict', f'{folder}/run.pth', *val, '--device', 'cpu')
      and 'class' in run('predict', ours, *val, '--device', 'cpu').split(': ')[1])
run('convert', ours, f'{folder}/published.pth', '--model', 'deit_nano_patch4_28')
published = torch.load(f'{folder}/published.pth', weights_only=True)['state_dict']
name = 'blocks.0.attn.proj_q'
check('published layout: a step for each width', published[f'{name}.alpha'].shape == (7,) and published[f'{name}.nbits'] == 3 and
      published[f'{name}.init_state'] == 1 and published[f'{name}.alpha'][1] == state[f'{name}.alpha'])
expected = [json.loads(l)['logits'] for l in run('predict', ours, *val, '--json', '--logits', '--device', 'cpu').splitlines()]
got = [json.loads(l)['logits'] for l in run('predict', f'{folder}/published.pth', *val, '--json', '--logits', '--center-crop',
                                              '--device', 'cpu', '--model', 'deit_nano_patch4_28').splitlines()]
check('published layout: the same logits, bit widths from nbits', got == expected)

print(f'{len(failures)} failures')
sys.exit(1 if failures else 0)
