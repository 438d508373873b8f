#!/usr/bin/env python3
"""examples/read_packed.py reads what `vvtq export` packs: the tensors that vvtq itself unpacks, bit for bit.

Usage: packed_test.py VVTQ [DIR]. Ends with 77 (skipped) where numpy is not there.
"""
import json
import os
import struct
import subprocess
import sys
import tempfile

try:
    import numpy as np
except ImportError as error:
    print(f'skipped: {error}')
    sys.exit(77)

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'examples'))
from read_packed import read_packed  # noqa: E402

vvtq = os.path.abspath(sys.argv[1])
folder = sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp()
failures = 0


def run(*arguments):
    done = subprocess.run([vvtq, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f'vvtq {arguments} ended with {done.returncode}: {done.stderr}')


def tensors_of(path):
    """The F32 tensors of a safetensors file that is not packed."""
    with open(path, 'rb') as file:
        header = json.loads(file.read(struct.unpack('<Q', file.read(8))[0]))
        data = file.read()
    return {name: np.frombuffer(data[slice(*entry['data_offsets'])], '<f4').reshape(entry['shape'])
            for name, entry in header.items() if name != '__metadata__' and not name.startswith('optimizer.')}


for split in ['train', 'val']:
    for label in range(2):
        os.makedirs(f'{folder}/data/{split}/{label}', exist_ok=True)
        for i in range(4):
            pixels = np.random.default_rng([label, i]).integers(0, 100 * (label + 1), (8, 8, 3), dtype=np.uint8)
            with open(f'{folder}/data/{split}/{label}/{i}.ppm', 'wb') as file:
                file.write(b'P6\n8 8\n255\n' + pixels.tobytes())
DEIT = '--model deit_nano_patch4_28 --img-size 8 --embed-dim 12 --depth 1 --num-heads 3'
SRET = '--model SReT_T --img-size 32 --embed-dim 10 --depths 2 2 2 --num-heads 1 1 1'  # odd widths of hidden layers
for flags in [f'{DEIT} --wbits {bits} --abits 4' for bits in range(1, 9)] + [f'{DEIT} --wbits 3 --abits 3 --head-wise',
                                                                             f'{SRET} --wbits 3 --abits 3']:
    run('train', '--data', f'{folder}/data', '-b', 4, '--epochs', 1, '--warmup-epochs', 0, '--device', 'cpu', '-j', 1,
        '--save_checkpoint_path', f'{folder}/run', *flags.split())
    checkpoint = tensors_of(f'{folder}/run/checkpoint.safetensors')
    for halves in [[], ['--float16']]:
        run('export', f'{folder}/run/checkpoint.safetensors', f'{folder}/packed.safetensors', *halves)
        run('convert', f'{folder}/packed.safetensors', f'{folder}/unpacked.safetensors')
        read, expected = read_packed(f'{folder}/packed.safetensors'), tensors_of(f'{folder}/unpacked.safetensors')
        good = read.keys() == expected.keys() and all(
            read[name].shape == value.shape and read[name].tobytes() == value.tobytes() for name, value in expected.items())
        # the rest is that of the checkpoint, and weights are less than half a step away, or clipped
        for name, value in expected.items():
            alpha = checkpoint.get(name[:-len('weight')] + 'alpha') if name.endswith('weight') else None
            if alpha is not None:
                w = checkpoint[name]
                near = np.abs(w - value) <= (0.57 if halves else 0.501) * alpha.max()  # 128 codes times 2^-11
                good = good and np.all(near | (np.abs(w) > np.abs(value))) and np.sign(value * w).min() >= 0
            if not halves and not name.endswith('.weight'):
                good = good and value.tobytes() == checkpoint[name].tobytes()
        print(('good: ' if good else 'FAILED: ') + flags + ' ' + ' '.join(halves), f'{len(read)} tensors', flush=True)
        failures += not good
sys.exit(1 if failures else 0)
