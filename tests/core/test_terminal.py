"""Work in a process of its own, which may take some time and no more."""

import subprocess
import sys

LATE = """
import threading
from serving.core import terminal

cancel = threading.Timer.cancel
threading.Timer.cancel = lambda timer: (cancel(timer), timer.function())
assert terminal.apart("work", lambda: 7, 60) == 7
"""


def test_work_that_ends_as_its_time_is_over_keeps_its_status() -> None:
    subprocess.run([sys.executable, "-c", LATE], check=True, timeout=60)
