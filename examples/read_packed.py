"""Reads a packed file of `vvtq export` (docs/packed_format.md): python3 read_packed.py FILE prints its tensors."""
import json
import struct
import sys

import numpy as np


def read_packed(path):
    """name -> float32 array of every tensor of the model."""
    with open(path, 'rb') as file:
        header = json.loads(file.read(struct.unpack('<Q', file.read(8))[0]))
        data = file.read()
    metadata = header.pop('__metadata__')
    stored = {name: data[slice(*entry['data_offsets'])] for name, entry in header.items()}

    tensors = {}
    for part, dtype in [('f32', '<f4'), ('f16', '<f2')]:
        values, at = np.frombuffer(stored.get(part, b''), dtype).astype(np.float32), 0
        for line in metadata.get(part + '_table', '').splitlines():
            name, *shape = line.split()
            shape = [int(size) for size in shape]
            count = int(np.prod(shape))
            tensors[name] = values[at:at + count].reshape(shape)
            at += count

    at = 0  # bytes
    for line in metadata['codes_table'].splitlines():
        name, bits, inner, *shape = line.split()
        bits, inner, shape = int(bits), int(inner), [int(size) for size in shape]
        count = int(np.prod(shape))
        size = (count * bits + 7) // 8
        row = np.unpackbits(np.frombuffer(stored['codes'][at:at + size], np.uint8), bitorder='little')
        at += size
        codes = row[:count * bits].reshape(count, bits).astype(np.int32) @ (1 << np.arange(bits))
        codes = 2 * codes - 1 if bits == 1 else codes - (1 << (bits - 1))
        layer = name.rpartition('.')[0]
        steps = tensors.get(layer + '.alpha')
        if steps is None:
            steps = tensors.pop(layer + '.scale')
        group = np.arange(count) // inner % len(steps)
        tensors[name] = (steps[group] * codes.astype(np.float32)).reshape(shape)
    return tensors


if __name__ == '__main__':
    for name, tensor in sorted(read_packed(sys.argv[1]).items()):
        print(name, tensor.shape, f'{tensor.min():.6g} .. {tensor.max():.6g}')
