"""A headless Chromium, driven by its DevTools protocol over two pipes. Standard library only."""
import base64
import fcntl
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading

# Puts the two pipes where Chromium expects them.
_START = 'import os,sys; os.dup2(int(sys.argv[1]),3); os.dup2(int(sys.argv[2]),4); os.execvp(sys.argv[3],sys.argv[3:])'


def program():
    """The path of a Chromium, or None."""
    names = ['chromium', 'chromium-browser', 'google-chrome']
    return next((path for path in map(shutil.which, names) if path), None)


class Browser:
    def __init__(self, path, limit=60):
        self.limit = limit  # seconds for an answer
        self.profile = tempfile.mkdtemp()
        ends = [*os.pipe(), *os.pipe()]
        read, self._write, self._read, write = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
        for end in ends:
            os.close(end)
        flags = ['--headless', '--remote-debugging-pipe', '--disable-gpu', '--no-first-run', '--disable-background-networking',
                 '--hide-scrollbars', f'--user-data-dir={self.profile}']
        if os.geteuid() == 0:
            flags.append('--no-sandbox')
        self.process = subprocess.Popen([sys.executable, '-c', _START, str(read), str(write), path, *flags],
                                        pass_fds=(read, write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(read)
        os.close(write)
        self._answers = queue.Queue()
        self._count = 0
        self.events = []
        threading.Thread(target=self._receive, daemon=True).start()
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        self._session = None
        self._session = self.call('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        for domain in ['Page', 'Runtime', 'Network', 'Log', 'DOM']:
            self.call(domain + '.enable')

    _session = None

    def _receive(self):
        rest = b''
        while True:
            try:
                read = os.read(self._read, 1 << 20)
            except OSError:
                read = b''
            if not read:
                self._answers.put({'id': -1, 'error': {'message': 'the browser ended'}})
                return
            *messages, rest = (rest + read).split(b'\0')
            for message in map(json.loads, messages):
                if 'id' in message:
                    self._answers.put(message)
                else:
                    self.events.append(message)

    def call(self, method, **parameters):
        self._count += 1
        message = {'id': self._count, 'method': method, 'params': parameters}
        if self._session:
            message['sessionId'] = self._session
        text = json.dumps(message).encode() + b'\0'
        while text:
            text = text[os.write(self._write, text):]
        while True:
            answer = self._answers.get(timeout=self.limit)
            if answer['id'] in (self._count, -1):
                break
        if 'error' in answer:
            raise RuntimeError(f'{method}: {answer["error"]["message"]}')
        return answer['result']

    def evaluate(self, expression):
        result = self.call('Runtime.evaluate', expression=expression, returnByValue=True, awaitPromise=True)
        if 'exceptionDetails' in result:
            raise RuntimeError(f'{expression}: {result["exceptionDetails"]}')
        return result['result'].get('value')

    def open(self, path):
        self.events.clear()
        self.call('Page.navigate', url='file://' + os.path.abspath(path))
        self.evaluate("new Promise((done) => document.readyState === 'complete' ? done() : addEventListener('load', done))")
        self.settle()

    def settle(self):
        """Waits until what the page drew last is on the screen."""
        self.evaluate('new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))')

    def screen(self, width, height, mobile=False):
        self.call('Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        self.settle()

    def media(self, **features):
        self.call('Emulation.setEmulatedMedia', features=[{'name': name.replace('_', '-'), 'value': value}
                                                          for name, value in features.items()])
        self.settle()

    def key(self, name, shift=False):
        codes = {'Tab': 9, 'Enter': 13, 'ArrowLeft': 37, 'ArrowUp': 38, 'ArrowRight': 39, 'ArrowDown': 40, 'PageUp': 33,
                 'PageDown': 34, 'End': 35, 'Home': 36}
        text = {'text': '\r'} if name == 'Enter' else {}
        for kind in ['keyDown' if text else 'rawKeyDown', 'keyUp']:
            self.call('Input.dispatchKeyEvent', **text, type=kind, key=name, code=name, windowsVirtualKeyCode=codes[name],
                      modifiers=8 if shift else 0)

    def drag(self, start, end, steps=5):
        """The pointer, pressed at `start` (x, y of the window), moved to `end` and released there."""
        def event(kind, at, buttons):
            self.call('Input.dispatchMouseEvent', type=kind, x=at[0], y=at[1], button='left', buttons=buttons, clickCount=1)
        event('mousePressed', start, 1)
        for i in range(1, steps + 1):
            event('mouseMoved', [a + (b - a) * i / steps for a, b in zip(start, end)], 1)
        event('mouseReleased', end, 0)
        self.settle()

    def screenshot(self, path, clip=None):
        more = {'clip': {**clip, 'scale': 1}, 'captureBeyondViewport': True} if clip else {}
        with open(path, 'wb') as file:
            file.write(base64.b64decode(self.call('Page.captureScreenshot', **more)['data']))

    def pdf(self):
        return base64.b64decode(self.call('Page.printToPDF', printBackground=True)['data'])

    def errors(self):
        """What the console and the scripts complained of."""
        found = []
        for event in list(self.events):
            method, parameters = event['method'], event['params']
            if method == 'Runtime.exceptionThrown':
                found.append(str(parameters['exceptionDetails'].get('exception', parameters)))
            elif method == 'Runtime.consoleAPICalled' and parameters['type'] in ('error', 'warning', 'assert'):
                found.append(str(parameters['args']))
            elif method == 'Log.entryAdded' and parameters['entry']['level'] in ('error', 'warning'):
                found.append(parameters['entry']['text'])
        return found

    def requests(self):
        return [event['params']['request']['url'] for event in list(self.events) if event['method'] == 'Network.requestWillBeSent']

    def close(self):
        try:
            self.call('Browser.close')
        except (RuntimeError, OSError, queue.Empty):
            pass
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.profile, ignore_errors=True)
