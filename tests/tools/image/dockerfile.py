"""deploy/Dockerfile, read: its stages, each a list of instructions with the arguments' defaults filled in."""

import json
import re
import shlex
from dataclasses import dataclass, field

from tests.conftest import ROOT

DOCKERFILE = ROOT / "deploy" / "Dockerfile"


@dataclass
class Stage:
    """One FROM with what follows it."""

    base: str
    name: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, keyword: str) -> list[str]:
        """Return what follows each instruction of this name."""
        return [rest for word, rest in self.instructions if word == keyword]

    def last(self, keyword: str) -> str:
        return self.all(keyword)[-1]

    @property
    def copies(self) -> list[tuple[str, list[str], str]]:
        """Return (stage or empty, sources, target) of each COPY."""
        copied = []
        for rest in self.all("COPY"):
            words = shlex.split(rest)
            stage = words.pop(0).removeprefix("--from=") if words[0].startswith("--from=") else ""
            copied.append((stage, words[:-1], words[-1]))
        return copied

    @property
    def environment(self) -> dict[str, str]:
        return dict(word.split("=", 1) for rest in self.all("ENV") for word in shlex.split(rest))

    @property
    def command(self) -> list[str]:
        command: list[str] = json.loads(self.last("CMD"))
        return command


def stages(text: str | None = None) -> list[Stage]:
    """Read the file."""
    text = DOCKERFILE.read_text() if text is None else text
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    stages_read: list[Stage] = []
    arguments: dict[str, str] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        keyword, rest = line.split(None, 1)
        for name, value in arguments.items():
            rest = rest.replace(f"${{{name}}}", value)
        if keyword == "ARG":
            name, _, value = rest.partition("=")
            arguments[name] = value
        elif keyword == "FROM":
            base, *named = rest.split()
            stages_read.append(Stage(base, named[-1] if named else ""))
        if keyword != "FROM":
            stages_read[-1].instructions.append((keyword, rest))
    return stages_read


def built_by() -> list[str]:
    """Return the builder's command that writes the image's own files, with its Python and its folder as written."""
    builder = stages()[0]
    (command,) = (shlex.split(rest) for rest in builder.all("RUN") if "tools.image.build" in rest)
    return command
