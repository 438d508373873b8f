#!/usr/bin/env python3
"""onnxruntime gives the logits of `vvtq predict` from the files of `vvtq export`.

Usage: onnx_test.py VVTQ [DIR]. Ends with 77 (skipped) where onnx or onnxruntime is not there, or VVTQ cannot write ONNX.
"""
import json
import os
import struct
import subprocess
import sys
import tempfile

try:
    import numpy as np
    import onnx
    import onnxruntime
except ImportError as error:
    print(f'skipped: {error}')
    sys.exit(77)

vvtq = os.path.abspath(sys.argv[1])
folder = sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp()
failures = []
PICTURES = 9  # of each class, for training and evaluation alike


def check(what, good):
    print(('good: ' if good else 'FAILED: ') + what, flush=True)
    if not good:
        failures.append(what)


def run(*arguments, status=0):
    done = subprocess.run([vvtq, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != status:
        print(done.stdout, done.stderr)
        raise SystemExit(f'vvtq {" ".join(map(str, arguments))} ended with {done.returncode}')
    return done.stdout + done.stderr


def pixels_of(label, i, size):
    noise = np.random.default_rng([label, i]).integers(0, 256, (size, size, 3))
    noise[size // 4 * (label + 1) - 3:, :, label] //= 3
    return noise.astype(np.uint8)


def dataset(size):
    """Three classes of PPM pictures, whose sides are those of the model: nothing is resampled."""
    for split in ['train', 'val']:
        for label in range(3):
            path = f'{folder}/data{size}/{split}/class{label}'
            os.makedirs(path, exist_ok=True)
            for i in range(PICTURES):
                with open(f'{path}/{i}.ppm', 'wb') as file:
                    file.write(b'P6\n%d %d\n255\n' % (size, size) + pixels_of(label, i, size).tobytes())
    return f'{folder}/data{size}'


def logits_of(checkpoint, size, *flags):
    images = [f'{folder}/data{size}/val/class{label}/{i}.ppm' for label in range(3) for i in range(PICTURES)]
    out = run('predict', checkpoint, *images, '--whole', '--json', '--logits', '--device', 'cpu', *flags)
    pixels = np.stack([pixels_of(label, i, size).transpose(2, 0, 1) for label in range(3) for i in range(PICTURES)])
    return pixels, np.array([json.loads(line)['logits'] for line in out.splitlines()])


def session(path, optimized=False):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    if optimized:
        options.optimized_model_filepath = f'{folder}/optimized.onnx'
    return onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])


def difference(name, path, pixels, expected):
    """The largest of each picture's logits, without and with optimizations."""
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    mean, std = (np.array(json.loads(metadata[key])).reshape(3, 1, 1) for key in ['mean', 'std'])
    port = model.graph.input[0].name
    x = pixels if port == 'pixels' else ((pixels / 255 - mean) / std).astype(np.float32)
    run_model = session(path)
    of_three = np.concatenate([run_model.run(None, {port: x[i:i + 3]})[0] for i in range(0, len(x), 3)])
    of_one = run_model.run(None, {port: x[:1]})[0]
    check(f'{name}: a batch of one and of three', np.abs(of_one - of_three[:1]).max() <= 1e-4)
    errors = np.abs(of_three - expected).max(axis=1)
    if 'native' in path:  # onnxruntime may not load types of 2 bits so, and quantizes what is not quantized
        return errors, errors, metadata
    return errors, np.abs(session(path, optimized=True).run(None, {port: x})[0] - expected).max(axis=1), metadata


def compare(name, size, command, flags, exports=(('',),)):
    run_folder = f'{folder}/{name}'
    data = dataset(size)
    if not os.path.exists(f'{run_folder}/checkpoint.safetensors'):
        run(command, '--data', data, *flags.split(), '-b', 9, '--epochs', 1, '--warmup-epochs', 0, '--lr', 1e-3, '--no-aug',
            '--device', 'cpu', '--save_checkpoint_path', run_folder)
    checkpoint = f'{run_folder}/checkpoint.safetensors'
    compare_exports(name, size, checkpoint, exports)
    return checkpoint


def compare_exports(name, size, checkpoint, exports, flags=()):
    """A code beside a rounding tie may differ and change the logits of its picture, so that of quantized models the
    median of the pictures counts."""
    pixels, expected = logits_of(checkpoint, size, *flags)
    check(f'{name}: logits differ from picture to picture', expected.std(axis=0).min() > 5e-3)
    for export in exports:
        path = f'{folder}/{name}{"".join(export)}.onnx'
        run('export', checkpoint, path, *[word for word in export if word], *flags)
        errors, optimized, metadata = difference(name, path, pixels, expected)
        floats = metadata['wbits'] == metadata['abits'] == '32'
        for what, each in [('', errors), (', optimized', optimized)]:
            what = f'{name} {" ".join(export)}{what}: logits, median {np.median(each):.1e}, most {each.max():.1e}'
            check(what, (each.max() if floats else np.median(each)) <= 1e-4)
        check(f'{name}: metadata', metadata['image_size'] == str(size) and len(json.loads(metadata['classes'])) == 3)
    return metadata


def read_tensors(path):
    """The tensors of a checkpoint without the optimizer's."""
    with open(path, 'rb') as file:
        header = json.loads(file.read(struct.unpack('<Q', file.read(8))[0]))
        data = file.read()
    return {name: np.frombuffer(data[slice(*entry['data_offsets'])], '<f4').reshape(entry['shape'])
            for name, entry in header.items() if name != '__metadata__' and not name.startswith('optimizer.')}


def write_tensors(path, tensors):
    header, data = {}, b''
    for name, values in tensors.items():
        content = values.astype('<f4').tobytes()
        header[name] = {'dtype': 'F32', 'shape': values.shape, 'data_offsets': [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    with open(path, 'wb') as file:
        file.write(struct.pack('<Q', len(text)) + text + data)


def compare_distilled(name, checkpoint, sizes, *bits):
    """A checkpoint of DeiT with a second token and classifier, as a file of another program."""
    tensors = dict(read_tensors(checkpoint))
    noise = np.random.default_rng(1)
    tensors['dist_token'] = noise.standard_normal(tensors['cls_token'].shape) / 10
    tensors['pos_embed'] = np.concatenate([tensors['pos_embed'], tensors['pos_embed'][:, :1]], axis=1)
    for part in ['weight', 'bias', 'alpha']:
        if f'head.{part}' in tensors:
            tensors[f'head_dist.{part}'] = tensors[f'head.{part}'] * (1 if part == 'alpha' else 0.7)
    write_tensors(f'{folder}/{name}.safetensors', tensors)
    compare_exports(name, 28, f'{folder}/{name}.safetensors', [('',)],
                    ['--model', 'deit_tiny_distilled_patch16_224', '--patch-size', '4', '--img-size', '28', *sizes, *bits])


probe = f'{folder}/probe.onnx'
os.makedirs(folder, exist_ok=True)
if 'built without ONNX' in subprocess.run([vvtq, 'export', 'none', probe], capture_output=True, text=True).stderr:
    print('skipped: vvtq was built without ONNX')
    sys.exit(77)

SIZES = '--depth 2 --embed-dim 48 --num-heads 3 '
DEIT = '--model deit_nano_patch4_28 ' + SIZES
SWIN = '--model swin_tiny_patch4_window7_224 --img-size 112 --embed-dim 24 --depths 2 2 2 --num-heads 2 4 6 '
SRET = '--model SReT_T --img-size 64 --embed-dim 16 --depths 2 4 2 --num-heads 1 2 4 '
forms = [('',), ('--input', 'pixels'), ('--style', 'int8-clip'), ('--style', 'native'), ('--opset', '25')]
compare_distilled('distilled_float', compare('deit_float', 28, 'pretrain', DEIT), SIZES.split())
checkpoint = compare('deit_w4a4', 28, 'train', DEIT + '--wbits 4 --abits 4', forms)
compare_distilled('distilled_w4a4', checkpoint, SIZES.split(), '--wbits', '4', '--abits', '4')
metadata = {entry.key: entry.value for entry in onnx.load(f'{folder}/deit_w4a4.onnx').metadata_props}
check('metadata', metadata['classes'] == '["class0","class1","class2"]' and metadata['image_size'] == '28' and
      metadata['wbits'] == metadata['abits'] == '4' and metadata['model'] == 'deit_nano_patch4_28_quant')
compare('deit_w3a3', 28, 'train', DEIT + '--wbits 3 --abits 3', forms)
compare('deit_w2a2', 28, 'train', DEIT + '--wbits 2 --abits 2', forms[:4])
compare('deit_w8a8', 28, 'train', DEIT + '--wbits 8 --abits 8')
compare('deit_w5a6', 28, 'train', DEIT + '--wbits 5 --abits 6', forms[:4])
compare('deit_w4a32', 28, 'train', DEIT + '--wbits 4 --abits 32')
compare('deit_w32a4', 28, 'train', DEIT + '--wbits 32 --abits 4')
compare('deit_w1a1', 28, 'train', DEIT + '--wbits 1 --abits 1')
compare('deit_heads', 28, 'train', DEIT + '--wbits 4 --abits 4 --head-wise', forms[:4])
compare('deit_w2a2_heads', 28, 'train', DEIT + '--wbits 2 --abits 2 --head-wise')
with open(f'{folder}/bits.toml', 'w') as bits:
    bits.write('"blocks.*" = 4\n"*.proj_q" = 2\n"*.quant_attn" = 8\n"blocks.1.mlp.fc1" = 32\n"blocks.0.mlp.quant2" = 3\nhead = 4\n')
compare('deit_by_name', 28, 'train', DEIT + f'--wbits 2 --abits 2 --bits {folder}/bits.toml', forms[:4])
compare('swin_float', 112, 'pretrain', SWIN)
compare('swin_w4a4', 112, 'train', SWIN + '--wbits 4 --abits 4')
compare('swin_w2a2', 112, 'train', SWIN + '--wbits 2 --abits 2')
compare('swin_heads', 112, 'train', SWIN + '--wbits 4 --abits 4 --head-wise')
compare('sret_float', 64, 'pretrain', SRET)
compare('sret_w4a4', 64, 'train', SRET + '--wbits 4 --abits 4', forms[:3])
compare('sret_w2a2', 64, 'train', SRET + '--wbits 2 --abits 2')

# from a packed file, the same bytes
run('export', checkpoint, f'{folder}/packed.safetensors')
run('export', f'{folder}/packed.safetensors', f'{folder}/packed.onnx')
check('from a packed file the same', open(f'{folder}/packed.onnx', 'rb').read() == open(f'{folder}/deit_w4a4.onnx', 'rb').read())

# optimized: the products of attention and MLP are integer
model = session(f'{folder}/deit_w4a4.onnx', optimized=True)
ops = [node.op_type for node in onnx.load(f'{folder}/optimized.onnx').graph.node]
integer = sum(op in ('MatMulIntegerToFloat', 'QLinearMatMul', 'MatMulInteger') for op in ops)
check(f'{integer} integer products of 2 blocks, {ops.count("MatMul")} others', integer >= 16 and ops.count('MatMul') == 0)
pixels, expected = logits_of(checkpoint, 28)
mean, std = (np.array(json.loads(metadata[key])).reshape(3, 1, 1) for key in ['mean', 'std'])
optimized = model.run(None, {'pictures': ((pixels / 255 - mean) / std).astype(np.float32)})[0]
agree = np.mean(optimized.argmax(1) == expected.argmax(1))
check(f'optimized: {agree:.1%} of the classes agree', agree >= 0.9)

# the script that compares times and logits
def compare_onnx(*arguments):
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'scripts', 'compare-onnx')
    done = subprocess.run([sys.executable, script, *map(str, arguments)], capture_output=True, text=True, env=os.environ | {'VVTQ': vvtq})
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


packed = f'{folder}/packed.safetensors'
status, out, err = compare_onnx(packed, '--threads', 1, '--batch', 1, 3, '--turns', 2)
agree = [line for line in out if 'top-1 of' in line]
rows = [line.split() for line in out if line.split()[:1] == ['1']]
check('compare-onnx: agreement on 64 pictures', status == 0 and len(agree) == 2 and all('of 64 pictures' in line for line in agree))
check('compare-onnx: a row for each batch and model', {row[1] for row in rows} == {'1', '3'} and len(rows) % 2 == 0 and len(rows) >= 4 and
      all(float(row[-1]) > 0 for row in rows))
for bad, words in [([f'{folder}/none.safetensors'], 'none.safetensors'), ([packed, '--onnx', packed], 'cannot load'),
                   ([packed, '--batch', 0], '--batch'), ([packed, f'{folder}/none'], 'none')]:
    status, out, err = compare_onnx(*bad)
    check(f'compare-onnx refuses {words}', status == 2 and len(err) == 1 and words in err[0])

print(f'{len(failures)} failures')
sys.exit(1 if failures else 0)
