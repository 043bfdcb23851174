"""A headless Chromium, driven over the pipe of its DevTools protocol."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-background-networking --no-first-run --hide-scrollbars".split()
)


class Chromium:
    """A page of its own; ``events`` are those that it has told of."""

    def __init__(self, profile):
        ours, theirs = zip(*(reversed(os.pipe()), os.pipe()))  # we write to the first, and read from the second
        source, sink = (fcntl.fcntl(descriptor, fcntl.F_DUPFD, 10) for descriptor in theirs)
        words = ["bash", "-c", f'exec "$0" "$@" 3<&{source} 4>&{sink}', PROGRAM, *OPTIONS]
        words += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(words, pass_fds=(source, sink), stderr=subprocess.DEVNULL)
        for descriptor in (*theirs, source, sink):
            os.close(descriptor)
        (self._to, self._from), self._read, self._count, self._session = ours, b"", 0, {}
        self.events = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters, **self._session}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        answer = self._next(lambda told: told.get("id") == self._count)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def _next(self, wanted, seconds=60):
        end = time.monotonic() + seconds
        while True:
            while b"\0" in self._read:
                text, _, self._read = self._read.partition(b"\0")
                told = json.loads(text)
                self.events += [told] * ("method" in told)
                if wanted(told):
                    return told
            assert select.select([self._from], [], [], max(0, end - time.monotonic()))[0], "Chromium says nothing"
            self._read += os.read(self._from, 1 << 20) or b'{"id": -1, "error": "it has ended"}\0'

    def open(self, path, width=1280, height=900, scheme="light"):
        """Open a file; ``width`` and ``height`` are the window's."""
        phone = width < 600
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone
        )  # fmt: skip
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        self._next(lambda told: told.get("method") == "Page.loadEventFired")

    def evaluate(self, expression):
        """The value of an expression of JavaScript."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def press(self, key, code, text=""):
        for kind in ("keyDown", "keyUp"):
            more = {"text": text} if text and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **more)

    def screenshot(self, path):
        """The whole page as a PNG."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def told(self, method):
        """The parameters of the page's events of a kind."""
        return [event["params"] for event in self.events if event["method"] == method]

    def close(self):
        self._process.terminate()
        self._process.wait(30)
        os.close(self._to)
        os.close(self._from)
