"""Real instances of the server, each a process of its own on a free port of the loopback interface."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from tools.server import Server, StartError, free_port, spawn
from tools.verify.client import Client, VerifyError


class Instance(Server):
    """A server of one model, of one worker. End it with `stop`, or `kill`."""

    def __init__(
        self, directory: Path | str, folder: Path, environment: Mapping[str, str] | None = None, port: int | None = None
    ) -> None:
        """Start it, and return at once; its log is written into `folder`."""
        port = port or free_port()
        log = folder / f"instance-{port}.log"
        settings = {"MODEL_DIR": str(directory), "HOST": "127.0.0.1", "PORT": str(port), "WORKERS": "1"}
        around = os.environ if environment is None else environment
        super().__init__(
            spawn([sys.executable, "-m", "serving.servers.standalone"], {**around, **settings}, log), port, log
        )

    def wait(self) -> "Instance":
        """Wait until the model is there; raise VerifyError where it will not be."""
        try:
            self.wait_for_port()
        except StartError as error:
            raise VerifyError(str(error)) from None
        with Client(self.url) as client:
            answer = client.get("/readyz")
        if answer.status != 200:
            raise VerifyError(f"the server is not ready: {answer.body.decode(errors='replace')}")
        return self
