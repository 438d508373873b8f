#!/usr/bin/env python3
"""The pictures of docs/inspector.md: screenshots.py PAGE.html FOLDER [QUANTIZER]."""
import json
import sys

import browser

path, folder = sys.argv[1:3]
page = browser.Browser(browser.program())
try:
    page.media(prefers_color_scheme='light', prefers_reduced_motion='reduce')
    page.screen(1120, 1330)
    page.open(path)
    page.screenshot(f'{folder}/inspector.png')
    if len(sys.argv) > 3:
        page.evaluate(f"""(() => {{
            const select = document.getElementById('chosen');
            select.value = {json.dumps(sys.argv[3])};
            select.dispatchEvent(new Event('change'));
        }})()""")
    page.screen(1120, 1180)
    page.evaluate("document.getElementById('handle').focus()")
    for _ in range(3):
        page.key('PageUp')
    for section in ['quantizer', 'picture']:
        page.evaluate(f"document.getElementById('{section}').scrollIntoView()")
        page.settle()
        page.screenshot(f'{folder}/inspector_{section}.png')
    page.screen(390, 844, mobile=True)
    page.evaluate('scrollTo(0, 0)')
    page.settle()
    page.screenshot(f'{folder}/inspector_phone.png')
finally:
    page.close()
