"""An inspection made by hand: of all kinds of quantizers, with hostile texts and missing numbers."""
import base64
import math
import random

HOSTILE = '</script><script>document.title="broken"</script><img src=x onerror=\'document.title="broken"\'><!--<script>'


def histogram(values, bins=64):
    low, high = min(values), max(values)
    counts = [0] * bins
    for x in values:
        counts[min(bins - 1, int((x - low) / (high - low) * bins))] += 1
    return {'low': low, 'high': high, 'counts': counts}


def quantizer(name, role, bits, values, step, offset=None, **more):
    signed = role in ('weight', 'activation')
    high = 1 if bits == 1 else (2**(bits - 1) - 1 if signed else 2**bits - 1)
    low = -1 if bits == 1 else (-2**(bits - 1) if signed else 0)
    total = sum(map(abs, values))
    codes = [min(high, max(low, round((x - (offset or 0)) / step))) for x in values]
    noise = sum((q * step + (offset or 0) - x)**2 for q, x in zip(codes, values))
    snr = 10 * math.log10(sum(x * x for x in values) / noise)
    return {
        'name': name, 'role': role, 'kind': name.split('.')[-1], 'quantizer': 'binary' if bits == 1 else 'lsq', 'bits': bits,
        'range': [low, high], 'steps': [step], 'offsets': [] if offset is None else [offset], 'groups': 1, 'grad_scale': [0.01],
        'shape': [len(values)], 'numel': len(values), 'bytes': {'float': 4 * len(values), 'packed': len(values) * bits // 8},
        'min': min(values), 'max': max(values), 'mean': sum(values) / len(values), 'std': 1.0,
        'occupancy': [codes.count(code) / len(codes) for code in range(low, high + 1)],
        'clipped': {'below': 0.01, 'above': 0.02}, 'snr_db': snr, 'entropy': 0.8 * bits,
        'distance': {'center': 0.2, 'boundary': 0.2, 'near_boundary': 0.1}, 'variance_in_bins': 0.05,
        'variation': {'magnitude': total / len(values), 'outlier': 4.0, 'kurtosis': 3.0}, 'histogram': histogram(values),
        'sample': values[:512],
        'sample_grad_scale': 1 / math.sqrt(total * high) if role == 'weight' else 1 / (math.sqrt(len(values)) * high),
        'oscillation': {'share': 0.1, 'mean': 0.001} if role == 'weight' else None, 'frozen': None,
        'sensitivity': {'float': {'loss': 0.5 - 0.001 * len(name), 'top1': 86.0}, 'two_bit': {'loss': 0.6, 'top1': 85.0}},
        'severity': 20 - snr, 'reason': 'rounds coarsely', **more}


def quantizers(blocks, wide, count=512):
    numbers = random.Random(1)

    def normal(scale):  # six significant digits, as in files
        return [float(f'{numbers.gauss(0, scale):.6g}') for _ in range(count)]

    def gelu(x):
        return float(f'{x * (1 + math.erf(x / math.sqrt(2))) / 2:.6g}')

    found = [quantizer('patch_embed.quant', 'activation', 8, normal(1), 0.03), quantizer('patch_embed.proj', 'weight', 8, normal(0.1), 0.003)]
    for i in range(blocks):
        at = f'blocks.{i}.'
        found.append(quantizer(at + 'attn.quant_input', 'activation', 4, normal(1), 0.4))
        found += [quantizer(f'{at}attn.{kind}', 'weight', wide, normal(0.05), 0.06) for kind in ['proj_q', 'proj_k', 'proj_v']]
        found += [quantizer(f'{at}attn.{kind}', 'activation', wide, normal(1), 0.9) for kind in ['quant_q', 'quant_k', 'quant_v']]
        found.append(quantizer(at + 'attn.quant_attn', 'probability', wide, [abs(x) for x in normal(0.03)], 0.02))
        found.append(quantizer(at + 'attn.quant_output', 'activation', 3, normal(0.5), 0.2))
        found.append(quantizer(at + 'attn.proj', 'weight', 3, normal(0.05), 0.02))
        found.append(quantizer(at + 'mlp.quant1', 'activation', wide, normal(1), 0.8))
        found.append(quantizer(at + 'mlp.fc1', 'weight', wide, normal(0.05), 0.05))
        found.append(quantizer(at + 'mlp.quant2', 'activated', wide, [gelu(x) for x in normal(1.5)], 0.5, offset=-0.11))
        found.append(quantizer(at + 'mlp.fc2', 'weight', wide, normal(0.05), 0.06))
    found += [quantizer('quant', 'activation', 8, normal(1), 0.03), quantizer('head', 'weight', 8, normal(0.1), 0.003)]
    signs = normal(0.6)
    found.append(quantizer('one_bit', 'weight', 1, signs, sum(map(abs, signs)) / len(signs)))
    ties = [round(4 * x) / 4 for x in normal(1.5)]  # halves of the step: between two codes, and on the ends of the range
    found.append(quantizer('ties', 'weight', 3, ties, 0.5))
    several = normal(0.05)[:510]
    found.append(quantizer('heads', 'weight', 2, several, 0.06, steps=[0.03, 0.05, 0.1], sample_group=[i // 170 for i in range(510)],
                           sample_grad_scale=1 / math.sqrt(sum(map(abs, several)) / 3)))
    nothing = ['min', 'max', 'mean', 'std', 'occupancy', 'clipped', 'snr_db', 'entropy', 'distance', 'variance_in_bins', 'variation',
               'histogram', 'sample', 'sample_grad_scale', 'oscillation', 'sensitivity', 'severity', 'reason']
    found.append({**found[0], 'name': 'empty', **{key: None for key in nothing}})
    found.append({**found[3], 'name': HOSTILE, 'reason': HOSTILE, 'snr_db': None, 'severity': 99.0})
    return found


def inspection(blocks=2, wide=2, grid=7, epochs=12, heads=3):
    numbers = random.Random(2)
    tokens = grid * grid + 1

    def row():
        values = [numbers.random()**4 for _ in range(tokens)]
        return [round(x / sum(values), 5) for x in values]

    attention = []
    for i in range(blocks):
        attention.append({'name': f'blocks.{i}.attn', 'heads': [
            {'error': 0.001 * (i + j + 1), 'before': before, 'after': [round(x * 50) / 50 for x in before]}
            for j, before in enumerate(row() for _ in range(heads))]})
    found = {
        'format': 'vvtq inspect 1', 'version': '0', 'checkpoint': {'path': HOSTILE, 'step': 10, 'epoch': 3, 'top1': None},
        'model': {'name': 'deit_' + HOSTILE, 'family': 'deit', 'image_size': 28, 'classes': 10, 'wbits': wide, 'abits': wide,
                  'parameters': 100, 'heads': heads, 'depth': blocks, 'tokens': tokens},
        'bytes': {'float': 400, 'packed': 40}, 'average_bits': {'weight': 2.5, 'activation': None}, 'bit_operations': 1e6,
        'data': {'path': HOSTILE, 'pictures': 64, 'top1': 86.0, 'loss': 0.51},
        'quantizers': quantizers(blocks, wide),
        'attention': {'picture': {'width': 8, 'height': 8, 'rgb': base64.b64encode(bytes(range(192))).decode()}, 'label': 3,
                      'predicted': 3, 'grid': [grid, grid], 'blocks': attention},
        'tokens': {'norms': [[5 + numbers.random() for _ in range(tokens)] for _ in range(blocks)]}, 'training': None, 'other': None}
    weights = [q['name'] for q in found['quantizers'] if q['role'] == 'weight']
    found['training'] = {'runs': [{'name': name, 'reg': reg, 'epochs': [
        {'epoch': e, 'train_loss': 1 / (e + 1), 'val_top1': 80 + e / 3, 'lambda': 0.001 * e if reg else 0, 'lr': 0.001,
         'osc': {'share': 0.1 - 0.005 * e * reg, 'mean': 0.001}, 'quantizers': {name: {
             'step': 0.1 + 0.001 * e, 'osc': 0.1, 'occupancy': [0.1, 0.4, 0.3, 0.2]} for name in weights}}
        for e in range(epochs)]} for name, reg in [('runs/reg', True), (HOSTILE, False)]]}
    other = {key: value for key, value in inspection_of_other(found).items() if key not in ('attention', 'training', 'other')}
    found['other'] = other
    return found


def inspection_of_other(found):
    changed = [{**q, 'snr_db': q['snr_db'] and q['snr_db'] + 0.1 * i, 'steps': [1.1 * q['steps'][0]]}
               for i, q in enumerate(found['quantizers'][1:])]
    return {**found, 'quantizers': changed, 'checkpoint': {**found['checkpoint'], 'path': 'other.safetensors', 'top1': 85.5}}
