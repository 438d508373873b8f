#!/usr/bin/env python3
"""What `vvtq train --tensorboard` writes, read by TensorBoard's own reader: the figures of metrics.jsonl, also of a run
that was stopped and resumed.

Usage: tensorboard_test.py VVTQ [DIR]. Ends with 77 (skipped) where tensorboard is not there.
"""
import json
import os
import subprocess
import sys
import tempfile

try:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
except ImportError as error:
    print(f'skipped: {error}')
    sys.exit(77)

vvtq = os.path.abspath(sys.argv[1])
folder = sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp()
failures = 0


def check(good, what):
    global failures
    print(('good: ' if good else 'FAILED: ') + what, flush=True)
    failures += not good


def run(*arguments):
    done = subprocess.run([vvtq, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f'vvtq {arguments} ended with {done.returncode}: {done.stderr}')


def near(a, b):
    return len(a) == len(b) and all(x == y or abs(x - y) <= 1e-6 * abs(y) for x, y in zip(a, b))


for split in ['train', 'val']:
    for label in range(2):
        os.makedirs(f'{folder}/data/{split}/{label}', exist_ok=True)
        for i in range(8):
            pixels = bytes((37 * i + 11 * k) % (100 * (label + 1)) for k in range(8 * 8 * 3))
            with open(f'{folder}/data/{split}/{label}/{i}.ppm', 'wb') as file:
                file.write(b'P6\n8 8\n255\n' + pixels)


def command(name, out):
    flags = (f'{name} --data {folder}/data -b 4 --epochs 3 --warmup-epochs 0 --device cpu -j 1 -p 1 --model deit_nano_patch4_28 '
             f'--img-size 8 --embed-dim 12 --depth 1 --num-heads 3 --save_checkpoint_path {folder}/{out} '
             f'--tensorboard {folder}/{out}-board')
    return (flags + ' --wbits 3 --abits 3 --reg --track-osc' if name == 'train' else flags).split()


def figures(out, kind):
    """The objects of one kind in metrics.jsonl by step; what a resumed run wrote again counts."""
    with open(f'{folder}/{out}/metrics.jsonl') as file:
        return {entry['step']: entry for entry in map(json.loads, file) if entry['kind'] == kind}


def board(out):
    events = EventAccumulator(f'{folder}/{out}-board', size_guidance={'scalars': 0, 'histograms': 0, 'tensors': 0})
    events.Reload()
    return events


def scalars(events, tag):
    return {event.step: event.value for event in events.Scalars(tag)}


run(*command('pretrain', 'float'))
run(*command('train', 'whole'))
run(*command('train', 'twice'), '--save-every-steps', 2, '--max-steps', 7)
# what a run writes behind its last checkpoint is forgotten when it is resumed from an earlier one
os.system(f'cp {folder}/twice/checkpoint.safetensors {folder}/early.safetensors')
run(*command('train', 'twice'), '--resume', f'{folder}/twice/checkpoint.safetensors', '--max-steps', 9)
run(*command('train', 'twice'), '--resume', f'{folder}/early.safetensors')

for out in ['float', 'whole', 'twice']:
    events, train, evaluated = board(out), figures(out, 'train'), figures(out, 'eval')
    for tag, name in [('train/loss', 'loss'), ('train/top1', 'acc1'), ('train/top5', 'acc5'), ('lr', 'lr'), ('lambda', 'lambda'),
                      ('train/regularizer', 'reg'), ('throughput/images_per_second', 'img_s')]:
        seen = scalars(events, tag)
        check(list(seen) == list(range(1, 13)) and near(list(seen.values()), [train[step][name] for step in seen]), f'{out} {tag}')
    for tag, name in [('val/loss', 'loss'), ('val/top1', 'acc1'), ('val/top5', 'acc5')]:
        seen = scalars(events, tag)
        check(list(seen) == [4, 8, 12] and near(list(seen.values()), [evaluated[step][name] for step in seen]), f'{out} {tag}')
    check(all(value > 0 for value in scalars(events, 'memory/peak_mib').values()), f'{out} memory')
    if out == 'float':
        check(not events.Tags()['histograms'], 'full precision has no codes')
        continue
    reports = figures(out, 'oscillation')
    check(list(reports) == [4, 8, 12], f'{out} reports')
    layer = 'blocks.0.attn.proj_q'
    for step, event in zip(reports, events.Histograms(f'codes/{layer}')):
        told = reports[step]['oscillation']['layers'][layer]
        counts = dict(zip(event.histogram_value.bucket_limit, event.histogram_value.bucket))
        check(event.step == step and near([counts[code + 0.5] for code in range(-4, 4)], told['occupancy'])
              and abs(sum(told['occupancy']) - 1) < 1e-9, f'{out} codes of step {step}')
        for tag, value in [(f'step/{layer}', told['step'][0]), (f'oscillation/mean/{layer}', told['mean']),
                           (f'variance_in_bins/{layer}', told['variance_in_bins']),
                           ('oscillation/share', reports[step]['oscillation']['share']),
                           ('step/blocks.0.attn.quant_q',
                            reports[step]['oscillation']['activations']['blocks.0.attn.quant_q']['step'][0])]:
            check(near([scalars(events, tag)[step]], [value]), f'{out} {tag} of step {step}')

with open(f'{folder}/whole/checkpoint.safetensors', 'rb') as a, open(f'{folder}/twice/checkpoint.safetensors', 'rb') as b:
    check(a.read() == b.read(), 'the stopped run ends in the same bytes')
sys.exit(1 if failures else 0)
