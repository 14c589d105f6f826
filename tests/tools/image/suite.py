"""The tests of serving, run with the image's packages: no TensorFlow for Python, no Flask of the platform's.

    python -m tests.tools.image.suite                 all of them, in minutes
    python -m tests.tools.image.suite tests/protocols/test_options.py

What tests need besides (pytest, clients, Pillow) is beside the image's packages, in a virtual environment that sees
nothing else. TensorFlow's own answers were recorded by the whole environment: `tests.models.zoo.build`.
"""

import os
import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from pathlib import Path

from tests.conftest import ROOT, plain_environment
from tests.models.zoo import build
from tests.tools.image.image import image
from tools.image import prune, requirements

# Tests of what is not in the image, and is not to be.
ELSEWHERE = {
    "tests/tools/image": "make the image",
    "tests/exporting": "need TensorFlow's Python package: they export, audit and bake",
    "tests/examples/test_digits.py": "needs Keras",
    "tests/runtime/test_litert.py": "makes twins with TensorFlow's converter, for an image without TensorFlow",
    "tests/deploy": "deploy, and serve nothing",
    "tests/tools/plan": "measure and simulate, and serve nothing of their own",
}
# Tests that ask TensorFlow's Python package, or serve through it.
ORACLES = (
    "tests/protocols/test_examples.py::test_json_examples_encode_to_what_tf_train_Example_reads",
    "tests/runtime/test_runtime.py::test_the_fallback_to_the_python_package_gives_the_same_answers",
    "tests/runtime/test_runtime.py::test_the_python_package_is_chosen_where_the_wheel_has_no_c_library",
)
NOT_TOOLS = {"tensorflow-cpu", "tensorflow", "keras"}


def environment(folder: Path, packages: Path) -> Path:
    """Make a virtual environment of the image's packages and the tests' own tools; return its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--symlinks", folder], check=True)
    site = prune.packages_of(Path(sys.prefix))
    installed = {requirements.normal(package.name): package for package in distributions(path=[str(site)])}
    here = {path.name for path in packages.iterdir()}
    tools = folder / "tools"
    tools.mkdir()
    for name in installed.keys() - NOT_TOOLS:
        for top in {path.parts[0] for path in prune._files(installed[name])} - here:
            if not (tools / top).exists():
                (tools / top).symlink_to(site / top)
        for script in installed[name].entry_points.select(group="console_scripts"):
            (folder / "bin" / script.name).write_text(
                f"#!{folder}/bin/python\nimport sys\nfrom {script.module} import {script.attr.split('.')[0]}\n"
                f"sys.exit({script.attr}())\n"
            )
            (folder / "bin" / script.name).chmod(0o755)
    for path in site.glob("keras-*.dist-info"):  # its version alone, by which the zoo's recorded answers are found
        (tools / path.name).symlink_to(path)
    (own,) = folder.glob("lib/python3*/site-packages")
    (own / "image.pth").write_text(f"{packages}\n{tools}\n")
    return folder / "bin" / "python"


def run(arguments: list[str], packages: Path) -> "subprocess.CompletedProcess[str]":
    """Run pytest on these tests, or all but those of `ELSEWHERE`, with the packages."""
    build()
    elsewhere = [*(f"--ignore={path}" for path in ELSEWHERE), *(f"--deselect={name}" for name in ORACLES)]
    arguments = [*(arguments or ["tests"]), *elsewhere]
    with tempfile.TemporaryDirectory() as name:
        python = environment(Path(name) / "environment", packages)
        return subprocess.run(
            [python, "-m", "pytest", "-p", "no:cacheprovider", *arguments], cwd=ROOT,
            env=plain_environment(PATH=f"{python.parent}:{os.environ['PATH']}"), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip


if __name__ == "__main__":
    ran = run(sys.argv[1:], image() / "packages")
    print(ran.stdout)
    sys.exit(ran.returncode)
