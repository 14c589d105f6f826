"""The index of the benchmark pages lists what there is: each page, each command, no other."""

import re

from bench.models import ROOT

BENCH, PAGES = ROOT / "bench", ROOT / "docs" / "benchmarks"
INDEX = (PAGES / "README.md").read_text()


def test_each_page_has_a_line_of_the_index_and_each_link_a_page() -> None:
    assert set(re.findall(r"\]\((\w+\.md)\)", INDEX)) == {page.name for page in PAGES.glob("*.md")} - {"README.md"}


def test_each_benchmark_that_writes_a_page_is_in_the_index_and_in_the_makefile() -> None:
    modules = {
        file.stem for file in BENCH.glob("*.py") if re.search(r"^    +publish\(", file.read_text(), re.MULTILINE)
    }
    commands = {"bench" if name == "__main__" else f"bench.{name}" for name in modules}
    assert set(re.findall(r"`python -m (bench[.\w]*)`", INDEX)) == commands
    assert set(re.findall(r"-m (bench[.\w]*)", (ROOT / "Makefile").read_text())) == commands
