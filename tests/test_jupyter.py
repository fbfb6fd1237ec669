"""Notebooks open in JupyterLab and run from top to bottom with no edit: through a real server, and seen in a browser."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
TOKEN = uuid.uuid4().hex
NOTEBOOKS = ["how-to/add_a_data_set.ipynb", "foundations/03_runtime.ipynb"]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    "A JupyterLab that serves a copy of the notebooks"

    def __init__(self, folder):
        self.port, self.log = free_port(), folder / "log.txt"
        shutil.copytree(ROOT / "nbs", folder / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints", "_quarto.yml"))
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--ServerApp.root_dir={folder / 'nbs'}", "--ServerApp.ip=127.0.0.1",
                   f"--ServerApp.port={self.port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}", "--ServerApp.allow_root=True",
                   "--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
        # the test's own folders: nothing is read from the user's Jupyter, or left in it
        own = {f"JUPYTER_{name}_DIR": str(folder / name) for name in ("CONFIG", "RUNTIME", "DATA")} | {"JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces")}
        env = os.environ | own | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
        self.process = subprocess.Popen(command, stdout=self.log.open("w"), stderr=subprocess.STDOUT, env=env, start_new_session=True)

    def ask(self, path, data=None, method=None):
        "What the server answers to a request of its REST interface"
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/api/{path}", body, {"Authorization": f"token {TOKEN}"}, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or "null")

    def wait(self, seconds=180):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            assert self.process.poll() is None, f"JupyterLab ended: {self.log.read_text()[-2000:]}"
            try:
                return self.ask("status")
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.3)
        raise AssertionError(f"JupyterLab did not answer: {self.log.read_text()[-2000:]}")


    def close(self, seconds=2):
        "End the server; one that waits for its kernels, as it does while a browser looks at it, is killed, with all that it started"
        self.process.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    pytest.importorskip("jupyterlab")
    found = Server(tmp_path_factory.mktemp("jupyter"))
    try:
        found.wait()
        yield found
    finally:
        found.close()


class Kernel:
    "A kernel of the server, spoken to through its websocket as the browser does"

    def __init__(self, server, path):
        import websocket

        self.server = server
        self.session = server.ask("sessions", {"path": path, "name": path, "type": "notebook", "kernel": {"name": "python3"}})
        self.id = self.session["kernel"]["id"]
        url = f"ws://127.0.0.1:{server.port}/api/kernels/{self.id}/channels?session_id={self.session['id']}"
        self.socket = websocket.create_connection(url, header=[f"Authorization: token {TOKEN}"], timeout=180)

    def run(self, source):
        "What a cell gives: its error, or None"
        number = uuid.uuid4().hex
        header = {"msg_id": number, "msg_type": "execute_request", "username": "test", "session": self.session["id"], "version": "5.3", "date": ""}
        content = {"code": source, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False, "stop_on_error": True}
        self.socket.send(json.dumps({"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell", "buffers": []}))
        replied = idle = error = None
        while not (replied and idle):
            told = json.loads(self.socket.recv())
            if told["parent_header"].get("msg_id") != number:
                continue
            if told["msg_type"] == "execute_reply":
                replied = True
                assert told["content"]["status"] in ("ok", "error")
            elif told["msg_type"] == "error":
                error = f"{told['content']['ename']}: {told['content']['evalue']}"
            elif told["msg_type"] == "status":
                idle = idle or told["content"]["execution_state"] == "idle"
        return error

    def close(self):
        self.socket.close()
        self.server.ask(f"sessions/{self.session['id']}", method="DELETE")


@pytest.mark.slow
@pytest.mark.parametrize("path", [NOTEBOOKS[0], *(pytest.param(n, marks=pytest.mark.soak) for n in NOTEBOOKS[1:])])
def test_a_notebook_runs_from_top_to_bottom(server, path):
    opened = server.ask(f"contents/{path}")
    cells = [c["source"] for c in opened["content"]["cells"] if c["cell_type"] == "code"]
    assert opened["type"] == "notebook" and len(cells) > 4
    kernel = Kernel(server, path)
    try:
        assert kernel.run("1 / 0") == "ZeroDivisionError: division by zero"  # an error would be seen
        for cell in cells:
            assert (error := kernel.run(cell)) is None, f"{path}: {error} in\n{cell}"
    finally:
        kernel.close()
    assert server.ask("sessions") == []


@pytest.mark.slow
def test_every_notebook_opens(server):
    "The server reads each as a valid notebook, of the kernel that everybody has"
    kernels = server.ask("kernelspecs")["kernelspecs"]
    for path in sorted(p.relative_to(ROOT / "nbs").as_posix() for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts):
        opened = server.ask(f"contents/{path}")
        assert opened["content"]["metadata"]["kernelspec"]["name"] in kernels and "message" not in opened, path


@pytest.mark.slow
@pytest.mark.browser
def test_jupyterlab_shows_the_cells(server, browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    path = NOTEBOOKS[0]
    title = "Add a data set"
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": 1200, "height": 900, "deviceScaleFactor": 1, "mobile": False})
    browser.get(f"http://127.0.0.1:{server.port}/lab/tree/{path}?token={TOKEN}")
    WebDriverWait(browser, 90).until(lambda b: title in "".join(e.text for e in b.find_elements(By.CSS_SELECTOR, ".jp-RenderedMarkdown h1")))
    WebDriverWait(browser, 30).until(lambda b: len(b.find_elements(By.CSS_SELECTOR, ".jp-Notebook .jp-CodeCell")) > 2)
    WebDriverWait(browser, 30).until(lambda b: b.find_elements(By.CSS_SELECTOR, ".jp-Notebook .jp-CodeCell .cm-content"))
    shown = browser.execute_script("return document.querySelector('.jp-Notebook').innerText")
    assert "What you get" in shown and "import tempfile" in shown and "#|" not in shown
