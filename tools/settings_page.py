"""Write docs/settings.md from serving/core/settings.py: `python -m tools.settings_page`.

A variable's text is the docstring of its field in Settings, its section the comment above; its default and what it
accepts come from VARIABLES.
"""

import ast
import re
import sys
from itertools import pairwise

from serving.core import settings
from serving.core.settings import ROOT, SUBSTITUTES, VARIABLES

PAGE = ROOT / "docs" / "settings.md"
SOURCE = ROOT / "serving" / "core" / "settings.py"
HEAD = """\
# Settings

<!-- Written by `python -m tools.settings_page` from serving/core/settings.py: change the text there. -->

Settings are environment variables. All are optional, and an empty variable counts as unset. A bad value stops the start
with one line that names the variable, what it accepts and what it is. Where the default is another variable, a platform
sets that one.
"""


def page() -> str:
    """Return the page as Markdown, a table for each section."""
    lines = [HEAD.rstrip()]
    for section, variable, text in _documented():
        if section:
            lines += ["", f"## {section}", "", "| variable | default | accepts | |", "| --- | --- | --- | --- |"]
        lines.append(f"| `{variable}` | {_default(variable)} | {_accepted(variable)} | {text} |")
    return "\n".join(lines) + "\n"


def _documented() -> list[tuple[str, str, str]]:
    """Return section (only with its first variable), variable and text of each field of Settings, in its order."""
    source = SOURCE.read_text()
    lines = source.splitlines()
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    (body,) = [node.body for node in classes if node.name == "Settings"]
    rows = []
    for field, documentation in pairwise(body):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        variable = field.target.id.upper()
        text = _text(documentation)
        if not text:
            raise SystemExit(f"{SOURCE.name}: expected a docstring behind the field of {variable}, got none")
        above = re.fullmatch(r" +# (.+)", lines[field.lineno - 2])
        rows.append((above[1] if above else "", variable, text))
    return rows


def _text(node: ast.stmt) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return re.sub(r"\s+", " ", node.value.value).replace("|", "\\|")
    return ""


def _default(variable: str) -> str:
    text = VARIABLES[variable][0].replace(f"{ROOT}/model", "model/")
    default = f"`{text}`" if text else ""
    if substitute := SUBSTITUTES.get(variable):
        return f"`{substitute}`, or {default}" if default else f"`{substitute}`"
    return default


def _accepted(variable: str) -> str:
    """Return what the variable accepts, in the words of its own error; empty where any text is accepted."""
    try:
        VARIABLES[variable][1]("\0?")
    except ValueError as error:
        text = re.sub(r" \(there is no .*\)$", "", str(error))
        return "" if text == "a path that can be looked up" else text.replace("|", "\\|")
    return ""


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(f"settings_page: expected no arguments, got {sys.argv[1:]}")
    settings.read({})
    PAGE.write_text(page())
    print(f"wrote {PAGE}")
