#!/usr/bin/env python3
"""The page of `vvtq inspect --html` in a headless Chromium: figures, the dragged step, keyboard, telephone, print, files.

Usage: page_test.py VVTQ PAGE_TOOL. Ends with 77 (skipped) where there is no Chromium. The numbers of the
page are compared with those of quant::Lsq, which PAGE_TOOL (tests/page/page_tool.cpp) computes from the same values.
"""
import csv
import io
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as xml

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), 'page'))
import browser as chromium  # noqa: E402
from checks import check, drawn, failures, keyboard, narrow, quiet  # noqa: E402
from made_inspection import inspection as made_inspection  # noqa: E402

vvtq, tool = map(os.path.abspath, sys.argv[1:3])
folder = tempfile.mkdtemp()
FIGURES = ['tree', 'staircase', 'occupancy', 'over-step', 'attention', 'errors', 'tokens', 'top1', 'loss', 'oscillating', 'lambda',
           'step-curve', 'osc-curve', 'codes-curve-0', 'codes-curve-1', 'changes']
TRACKED = ['oscillating', 'step-curve', 'osc-curve', 'codes-curve-0', 'codes-curve-1']  # of runs with --track-osc
TABLES = ['quantizers', 'measures', 'runs', 'comparison', 'differences']


def use_tool(what, value):
    done = subprocess.run([tool, what], input=json.dumps(value), capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f'page_tool {what}: {done.stderr}')
    return done.stdout


def now(page, column='now'):
    texts = page.evaluate(f'''Object.fromEntries([...document.querySelectorAll('[data-column={column}]')].map(
        (out) => [out.dataset.measure, out.dataset.value]))''')
    return {key: float(text) if text else None for key, text in texts.items()}


def choose(page, name):
    page.evaluate(f'''(() => {{
        const select = document.getElementById('chosen');
        select.value = {json.dumps(name)};
        select.dispatchEvent(new Event('change'));
    }})()''')
    page.settle()


def handle_at(page):
    return page.evaluate('''(() => {
        document.getElementById('staircase').scrollIntoView({block: 'center'});
        const box = document.querySelector('#handle .grip').getBoundingClientRect();
        return [box.x + box.width / 2, box.y + box.height / 2];
    })()''')


def same(a, b):
    if a is None or b is None:
        return a is b
    return abs(a - b) <= 1e-9 * max(abs(a), abs(b), 1e-6)


def compare(page, quantizer, what):
    """The numbers of the page and those of the program, for the step that the page has now."""
    shown = now(page)
    offset = quantizer['offsets'][0] if quantizer['offsets'] else None
    mean = sum(quantizer['steps']) / len(quantizer['steps'])  # of several steps the page shows and changes the mean
    steps_now = [step * (shown['step'] / mean) for step in quantizer['steps']] if len(quantizer['steps']) > 1 else [shown['step']]
    expected = json.loads(use_tool('quantize', {
        'x': quantizer['sample'], 'bits': quantizer['bits'], 'signed': quantizer['role'] in ('weight', 'activation'),
        'weight': quantizer['role'] == 'weight', 'steps': steps_now, 'offset': offset}))
    count = len(quantizer['sample'])
    shares = [each / count for each in expected['occupancy']]
    entropy = sum(-p * math.log2(p) for p in shares if p > 0)
    pairs = {'clipped': (shown['below'] + shown['above'], expected['clipped']), 'snr_db': (shown['snr_db'], expected['snr_db']),
             'entropy': (shown['entropy'], entropy)}
    for key in ['scaled', 'offsetGradient']:
        if key in expected:
            pairs[key] = (shown[key], expected[key])
    wrong = {key: pair for key, pair in pairs.items() if not same(*pair)}
    check(f'{what}: as the program computes', not wrong, wrong)
    bars = page.evaluate("[...document.querySelectorAll('#occupancy .occupancy rect')].map((bar) => Number(bar.dataset.share))")
    check(f'{what}: codes in use', len(bars) == len(shares) and all(map(same, bars, shares)), (shares, bars))
    return shown


def steps(page, inspection, names):
    """The handle dragged by the pointer and moved by keys, for quantizers of each kind."""
    for name in names:
        quantizer = next(q for q in inspection['quantizers'] if q['name'] == name)
        choose(page, name)
        learned = compare(page, quantizer, f'{name}, learned step')
        check(f'{name}: starts at its step', learned['step'] == sum(quantizer['steps']) / len(quantizer['steps']), learned['step'])
        for distance in (-60, 25):
            x, y = handle_at(page)
            page.drag((x, y), (x + distance, y + 7))
            moved = compare(page, quantizer, f'{name}, dragged by {distance}')
            check(f'{name}: dragging changes the step', moved['step'] != learned['step'] and moved['snr_db'] != learned['snr_db'])
        check(f'{name}: the handle follows', abs(handle_at(page)[0] - x - 25) < 1, (x, handle_at(page)))
        page.evaluate("document.getElementById('handle').focus()")
        before = now(page)['step']
        for key, factor in [('ArrowRight', 1.01), ('ArrowLeft', 1 / 1.01), ('ArrowLeft', 1 / 1.01), ('PageUp', 1.1)]:
            page.key(key)
            before *= factor
        moved = compare(page, quantizer, f'{name}, moved by keys')
        check(f'{name}: keys change the step', same(moved['step'], before), (moved['step'], before))
        page.key('Home')
        least = compare(page, quantizer, f'{name}, least step')
        told = page.evaluate("['min', 'now'].map((each) => Number(document.getElementById('handle').getAttribute('aria-value' + each)))")
        check(f'{name}: the slider says its value', told == [least['step'], least['step']], told)
        page.evaluate("document.getElementById('best').click()")
        best = compare(page, quantizer, f'{name}, least error')
        check(f'{name}: the least error is less', best['mse'] <= min(learned['mse'], least['mse'], moved['mse']))
        page.evaluate("document.getElementById('reset').click()")
        check(f'{name}: back to the learned step', now(page) == learned)


def rows_of(page, table, column):
    return page.evaluate(f'''[...document.querySelectorAll('#{table} tbody tr')].map((row) => row.children[{column}].textContent)''')


def sorting(page, inspection):
    labels = page.evaluate("[...document.querySelectorAll('#quantizers thead button')].map((button) => button.textContent)")
    values = {q['name']: q['snr_db'] for q in inspection['quantizers']}
    at = labels.index('Signal to noise')
    for order in ['descending', 'ascending']:
        page.evaluate(f"document.querySelectorAll('#quantizers thead button')[{at}].click()")
        names = rows_of(page, 'quantizers', 0)
        known = [values[name] for name in names if values[name] is not None]
        check(f'sorted by signal to noise, {order}', known == sorted(known, reverse=order == 'descending') and
              len(names) == len(values) and all(values[name] is None for name in names[len(known):]))
        told = page.evaluate("[...document.querySelectorAll('#quantizers thead th')].map((th) => th.getAttribute('aria-sort'))")
        check(f'aria-sort says {order}', told == [order if i == at else None for i in range(len(labels))], told)
    page.evaluate("document.querySelector('#quantizers thead button').click()")
    check('sorted by name', rows_of(page, 'quantizers', 0) == sorted(values))
    page.evaluate('''(() => {
        const search = document.getElementById('search');
        search.value = 'mlp.fc';
        search.dispatchEvent(new Event('input'));
    })()''')
    check('the search leaves what it names', set(rows_of(page, 'quantizers', 0)) == {name for name in values if 'mlp.fc' in name})
    page.evaluate('''(() => {
        const search = document.getElementById('search');
        search.value = '';
        search.dispatchEvent(new Event('input'));
    })()''')


def saved(page, inspection, figures):
    """Every button that saves gives a file: SVG that is XML, CSV with all rows."""
    target = tempfile.mkdtemp(dir=folder)
    page.call('Browser.setDownloadBehavior', behavior='allow', downloadPath=target)
    buttons = page.evaluate("document.querySelectorAll('button.save').length")
    limit = time.monotonic() + 60
    for i in range(buttons):
        page.evaluate(f"document.querySelectorAll('button.save')[{i}].focus()")
        if i % 8 == 7:
            time.sleep(1.2)  # Chromium lets a page save ten files in a second
        page.key('Enter')
        while len([name for name in os.listdir(target) if name.endswith(('.svg', '.csv'))]) <= i and time.monotonic() < limit:
            time.sleep(0.02)
    names = os.listdir(target)
    pictures, sheets = ([name for name in names if name.endswith(ending)] for ending in ['.svg', '.csv'])
    check(f'{buttons} buttons save a file each', len(pictures) + len(sheets) == buttons == len(figures) + len(TABLES), names)
    good = True
    for name in pictures:
        with open(os.path.join(target, name)) as file:
            text = file.read()
        root = xml.fromstring(text)
        good = good and root.tag.endswith('svg') and 'var(' not in text and len(list(root.iter())) > 4
    check('saved figures are SVG on their own', good)
    for name in sheets:
        with open(os.path.join(target, name), newline='') as file:
            rows = list(csv.reader(io.StringIO(file.read())))
        check(f'{name.split("-")[-1]} has its columns in every row', len(rows) > 1 and len({len(row) for row in rows}) == 1)
        if name.endswith('-quantizers.csv'):
            at = rows[0].index('snr_db')
            read = {row[0]: float(row[at]) if row[at] else None for row in rows[1:]}
            check('quantizers.csv has the numbers', read == {q['name']: q['snr_db'] for q in inspection['quantizers']})


def everything(page, path, inspection, names, what, figures=FIGURES):
    page.screen(1200, 900)
    page.media(prefers_color_scheme='light', prefers_reduced_motion='reduce')
    page.open(path)
    choose(page, names[0])  # a weight: of activations no codes are logged
    drawn(page, figures)
    if 'codes-curve-0' in figures:
        check('areas are filled', page.evaluate("getComputedStyle(document.querySelector('.area')).fill") != 'none')
    for name in TABLES:
        check(f'table {name}', page.evaluate(f"document.querySelectorAll('#{name} tbody tr').length > 0"))
    quiet(page, path, what)
    steps(page, inspection, names)
    sorting(page, inspection)
    keyboard(page, path)
    saved(page, inspection, figures)
    narrow(page, what)
    light = page.evaluate('getComputedStyle(document.body).backgroundColor')
    page.media(prefers_color_scheme='dark')
    page.open(path)
    check(f'{what}: dark', page.evaluate('getComputedStyle(document.body).backgroundColor') != light)
    drawn(page, FIGURES[:4])
    check(f'{what}: prints', page.pdf()[:5] == b'%PDF-')
    page.evaluate("for (const input of document.querySelectorAll('input[type=radio]')) input.click()")
    page.evaluate("document.getElementById('next').click(); document.getElementById('before').click()")
    quiet(page, path, f'{what}, dark and printed')


def write_page(name, inspection):
    path = os.path.join(folder, name)
    with open(path, 'w') as file:
        file.write(use_tool('page', inspection))
    return path


def hostile_and_bare(page):
    """Texts stay texts; a page without pictures, logs and second checkpoint says how to get them."""
    made = made_inspection()
    path = write_page('made.html', made)
    everything(page, path, made, ['blocks.0.attn.proj_q', 'blocks.1.attn.quant_input', 'blocks.1.mlp.quant2', 'blocks.0.attn.quant_attn',
                                  'blocks.0.attn.proj', 'head', 'heads', 'ties'], 'made by hand')
    check('texts stay texts', 'broken' not in page.evaluate('document.title').replace('title="broken"', '') and
          page.evaluate("document.querySelectorAll('img').length") == 1 and
          page.evaluate("document.getElementById('model-name').textContent") == made['model']['name'])
    choose(page, 'one_bit')
    one_bit = next(q for q in made['quantizers'] if q['name'] == 'one_bit')
    shown = compare(page, one_bit, 'one bit')
    check('one bit has no gradient of its step', shown['gradient'] is None and shown['scaled'] is None)
    choose(page, 'empty')
    check('a quantizer without figures says so', 'inspect' in page.evaluate("document.querySelector('#quantizer .missing').textContent"))
    quiet(page, path, 'one bit and empty')

    bare = {**made, 'data': None, 'attention': None, 'tokens': None, 'training': None, 'other': None}
    bare['quantizers'] = [{**q, 'sensitivity': None, 'sample': None} for q in made['quantizers']]
    path = write_page('bare.html', bare)
    page.open(path)
    for section, flag in [('overview', '--data'), ('layers', '--data'), ('picture', '--data'), ('training', '--metrics'), ('compare', '--compare')]:
        check(f'{section} says how to get it', flag in page.evaluate(f"document.querySelector('#{section} .missing code').textContent"))
    narrow(page, 'bare')
    quiet(page, path, 'bare')


def run(*arguments):
    done = subprocess.run([vvtq, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f'vvtq {" ".join(map(str, arguments))} ended with {done.returncode}: {done.stderr}')


def pictures(size):
    """Two classes of noise, of different brightness."""
    numbers = random.Random(1)
    for split in ['train', 'val']:
        for label in range(2):
            os.makedirs(f'{folder}/data{size}/{split}/class{label}')
            for i in range(8):
                with open(f'{folder}/data{size}/{split}/class{label}/{i}.ppm', 'wb') as file:
                    file.write(b'P6\n%d %d\n255\n' % (size, size) + bytes(numbers.randrange(100 * (label + 1)) for _ in range(3 * size * size)))
    return f'{folder}/data{size}'


TRAIN = ['-b', 8, '--warmup-epochs', 0, '--device', 'cpu', '-j', 1]


def families(page):
    """Pages of all families, with a step for each head, and with one bit."""
    models = {'swin': ['--model', 'swin_tiny_patch4_window7_224', '--img-size', 56, '--embed-dim', 12, '--depths', 2, 2, '--num-heads', 2, 4,
                       '--wbits', 3, '--abits', 3],
              'sret': ['--model', 'SReT_T', '--img-size', 64, '--embed-dim', 10, '--depths', 2, 2, 2, '--num-heads', 1, 1, 1, '--wbits', 4, '--abits', 4],
              'heads': [*DEIT, '--wbits', 2, '--abits', 4, '--head-wise'], 'one_bit': [*DEIT, '--wbits', 1, '--abits', 1]}
    for name, model in models.items():
        data = pictures(model[model.index('--img-size') + 1]) if name in ('swin', 'sret') else f'{folder}/data8'
        run('train', '--data', data, *model, *TRAIN, '--epochs', 1, '--save_checkpoint_path', f'{folder}/{name}')
        path = f'{folder}/{name}.html'
        run('inspect', f'{folder}/{name}/checkpoint.safetensors', '--data', data, '--device', 'cpu', '-j', 1, '--json', path + '.json', '--html', path)
        with open(path + '.json') as file:
            inspection = json.load(file)
        page.open(path)
        drawn(page, FIGURES[:7])
        several = 0
        for quantizer in inspection['quantizers']:
            choose(page, quantizer['name'])
            if not quantizer['sample']:
                continue
            several += len(quantizer['steps']) > 1
            learned, groups = now(page, 'learned'), quantizer.get('sample_group')
            if len(quantizer['steps']) > 1 or groups:
                check(f'{name}, {quantizer["name"]}: each value has one of its steps',
                      groups and len(groups) == len(quantizer['sample']) and set(groups) == set(range(len(quantizer['steps']))), groups)
            if learned['snr_db'] is not None and len(quantizer['sample']) == quantizer['numel'] and quantizer['role'] == 'weight':
                check(f'{name}, {quantizer["name"]}: a sample of all values has the figures of the tensor',
                      abs(learned['snr_db'] - quantizer['snr_db']) < 1e-3, (learned['snr_db'], quantizer['snr_db']))
        check(f'{name}: several steps', (several > 0) == (name == 'heads'), several)
        narrow(page, name)
        quiet(page, path, name)


DEIT = ['--model', 'deit_nano_patch4_28', '--img-size', 8, '--embed-dim', 12, '--depth', 2, '--num-heads', 3]


def real(page):
    """The page that the program makes of a model that it trained, beside a second one, with pictures and logs."""
    data = pictures(8)
    help_text = subprocess.run([vvtq, 'train', '--help'], capture_output=True, text=True).stdout
    tracking = ['--track-osc'] if '--track-osc' in help_text else []
    for name, flags in [('reg', ['--reg']), ('plain', [])]:
        run('train', '--data', data, *DEIT, '--wbits', 2, '--abits', 2, *TRAIN, '--epochs', 3, '--save_checkpoint_path', f'{folder}/{name}',
            *flags, *tracking)
    path = f'{folder}/real.html'
    run('inspect', f'{folder}/reg/checkpoint.safetensors', '--data', data, '--sensitivity', '--compare',
        f'{folder}/plain/checkpoint.safetensors', '--metrics', f'{folder}/reg/metrics.jsonl', f'{folder}/plain/metrics.jsonl',
        '--device', 'cpu', '-j', 1, '--json', f'{folder}/real.json', '--html', path)
    with open(f'{folder}/real.json') as file:
        inspection = json.load(file)
    names = ['blocks.0.attn.proj_q', 'blocks.1.mlp.fc1', 'blocks.0.attn.quant_attn', 'blocks.1.mlp.quant2', 'patch_embed.quant']
    everything(page, path, inspection, names, 'of the program', [name for name in FIGURES if tracking or name not in TRACKED])
    for quantizer in inspection['quantizers']:
        choose(page, quantizer['name'])
        whole = now(page, 'whole')
        if whole['snr_db'] != quantizer['snr_db'] or whole['entropy'] != quantizer['entropy']:
            check(f'{quantizer["name"]}: the figures of the whole tensor', False, whole)
    quiet(page, path, 'of the program, all quantizers')


def size():
    """DeiT-T's blocks, tokens and logs of a long training, with a second checkpoint."""
    bytes_of_page = len(use_tool('page', made_inspection(blocks=12, grid=14, epochs=150)).encode())
    check(f'the page of a model like DeiT-T has {bytes_of_page / 1e6:.2f} of 3 MB', bytes_of_page <= 3_000_000)


path = chromium.program()
if path is None:
    print('skipped: no chromium')
    sys.exit(77)
size()
started = chromium.Browser(path)
try:
    hostile_and_bare(started)
    real(started)
    families(started)
finally:
    started.close()
print(f'{len(failures)} failures')
sys.exit(1 if failures else 0)
