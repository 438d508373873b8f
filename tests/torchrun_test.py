#!/usr/bin/env python3
"""torchrun of PyPI's torch starts two processes that train together.

Usage: torchrun_test.py VVTQ. Ends with 77 (skipped) where this Python has no torch.
"""
import importlib.util
import os
import random
import socket
import struct
import subprocess
import sys
import tempfile

if importlib.util.find_spec('torch') is None:
    print('skipped: no torch')
    sys.exit(77)

vvtq = os.path.abspath(sys.argv[1])
failures = []


def check(what, good):
    print(('good: ' if good else 'FAILED: ') + what, flush=True)
    if not good:
        failures.append(what)


def write_data(stem, count, seed):
    """idx files of 28 x 28 pictures of 10 classes, noise."""
    noise = random.Random(seed)
    with open(stem + '-labels-idx1-ubyte', 'wb') as file:
        file.write(struct.pack('>II', 0x801, count) + bytes(i % 10 for i in range(count)))
    with open(stem + '-images-idx3-ubyte', 'wb') as file:
        file.write(struct.pack('>IIII', 0x803, count, 28, 28) + noise.randbytes(count * 28 * 28))


def free_port():
    with socket.create_server(('127.0.0.1', 0)) as server:
        return server.getsockname()[1]


def run(*command):
    """Exit status and what was printed."""
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}  # else torchrun warns that it sets it
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300, env=environment)
    return done.returncode, done.stdout, done.stderr


with tempfile.TemporaryDirectory(prefix='vvtq-torchrun-') as folder:
    write_data(folder + '/train', 48, 1)
    write_data(folder + '/t10k', 17, 2)

    def train(name, *more):
        return [vvtq, 'train', '--wbits', 3, '--abits', 3, '--reg', '--dataset', 'fashion-mnist', '--data', folder,
                '--save_checkpoint_path', f'{folder}/{name}', '--model', 'deit_nano_patch4_28', '--img-size', 16,
                '--embed-dim', 12, '--depth', 2, '--num-heads', 3, '--device', 'cpu', '--threads', 1, '-j', 1, '-p', 1,
                '--warmup-epochs', 0, '-b', 12, '--epochs', 2, '--shards', 4, *more]

    def checkpoint(name):
        try:
            with open(f'{folder}/{name}/checkpoint.safetensors', 'rb') as file:
                return file.read()
        except OSError:
            return None

    torchrun = [sys.executable, '-W', 'ignore', '-m', 'torch.distributed.run', '--no-python', '--nproc-per-node', 2]
    check('one process', run(*train('one'))[0] == 0)
    for name, where in (('standalone', ['--standalone']),
                        ('port', ['--master-addr', '127.0.0.1', '--master-port', free_port()])):
        status, out, err = run(*torchrun, *where, *train(name))
        check(f'torchrun, {name}: {err}', status == 0)
        check(f'torchrun, {name}: two processes', '2 processes, Gloo, 6 images each' in out)
        check(f'torchrun, {name}: the checkpoint of one process', checkpoint(name) not in (None, b'') and
              checkpoint(name) == checkpoint('one'))
    status, out, err = run(*torchrun, '--standalone', *train('refused', '--data', '/nowhere'))
    check('torchrun: a run that fails has its status and says why', status != 0 and '/nowhere' in err)

sys.exit(1 if failures else 0)
