"""What tests/page_test.py checks of every page."""
import json
import os

failures = []


def check(what, good, detail=''):
    print(('good: ' if good else 'FAILED: ') + what + (f': {detail}' if detail and not good else ''), flush=True)
    if not good:
        failures.append(what)


def quiet(page, path, what):
    """No complaint, and no request but for the file itself and what stands in it."""
    errors = page.errors()
    check(f'{what}: no error in the console', not errors, errors)
    outside = [url[:80] for url in page.requests() if not url.startswith(('data:', 'blob:')) and url != 'file://' + os.path.abspath(path)]
    check(f'{what}: no request leaves the page', page.requests() and not outside, outside)


def drawn(page, figures):
    """Each figure has a size, a description and something in it."""
    for name in figures:
        size = page.evaluate(f'''(() => {{
            const svg = document.getElementById('{name}');
            if (!svg) return null;
            const box = svg.getBoundingClientRect();
            return [box.width, box.height, svg.querySelectorAll('rect, path, circle').length, svg.getAttribute('aria-label')];
        }})()''')
        check(f'figure {name}', bool(size) and min(size[:2]) > 40 and size[2] > 2 and len(size[3]) > 20, size)


ABOUT_FOCUS = '''(() => {
    const all = [...document.querySelectorAll('*')], here = document.activeElement;
    return here === document.body ? null : [all.indexOf(here), here.matches(':focus-visible')];
})()'''


def keyboard(page, path):
    """Tab reaches every control, in the order of the page, and shows where it is; arrows reach every cell of the tree."""
    page.open(path)
    expected = page.evaluate('''(() => {
        const all = [...document.querySelectorAll('*')];
        return all.filter((node) => node.matches('a[href], button, select, input, [tabindex="0"]') && !node.disabled &&
            !(node.type === 'radio' && !node.checked) && node.checkVisibility({visibilityProperty: true}))
            .map((node) => all.indexOf(node));
    })()''')
    reached, shown = [], True
    for _ in range(len(expected) + 20):
        page.key('Tab')
        focus = page.evaluate(ABOUT_FOCUS)
        if focus is None or focus[0] in reached:
            break
        reached.append(focus[0])
        shown = shown and focus[1]
    described = page.evaluate(f'''(() => {{
        const all = [...document.querySelectorAll('*')];
        return {sorted(set(expected) ^ set(reached))}.map((i) => all[i].outerHTML.slice(0, 120));
    }})()''')
    check(f'Tab reaches all {len(expected)} controls', set(reached) == set(expected) and len(expected) > 50, described)
    check('Tab goes in the order of the page', reached == sorted(reached))
    check('focus is seen', shown)

    name = 'document.activeElement.dataset.name'
    page.evaluate("document.querySelector('#tree .cell[tabindex=\"0\"]').focus()")
    cells = page.evaluate("[...document.querySelectorAll('#tree .cell')].map((cell) => cell.dataset.name)")
    seen, waiting = set(), [page.evaluate(name)]
    while waiting:
        here = waiting.pop()
        if here in seen:
            continue
        seen.add(here)
        for key in ['ArrowRight', 'ArrowDown', 'ArrowLeft', 'ArrowUp']:
            page.evaluate(f"[...document.querySelectorAll('#tree .cell')].find((cell) => cell.dataset.name === {json.dumps(here)}).focus()")
            page.key(key)
            waiting.append(page.evaluate(name))
    check(f'arrow keys reach all {len(cells)} cells of the tree', seen == set(cells), set(cells) - seen)
    page.key('Enter')
    chosen = page.evaluate("[document.getElementById('chosen').value, document.activeElement.id]")
    check('Enter opens a quantizer', chosen[0] in cells and chosen[1] == 'quantizer-heading', chosen)


def narrow(page, what):
    for width in (390, 320):
        page.screen(width, 844, mobile=True)
        wide = page.evaluate('''[document.scrollingElement.scrollWidth, ...[...document.querySelectorAll('main *')]
            .filter((node) => !node.closest('.scroller, svg, .hidden') && node.getBoundingClientRect().right > innerWidth + 1)
            .map((node) => node.outerHTML.slice(0, 100))]''')
        check(f'{what}: {width} pixels are enough', wide[0] <= width and len(wide) == 1, wide)
    page.screen(1200, 900)
