"""An Api that counts what is alive: every handle that TensorFlow's C library gives, and every string inside a tensor."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from serving.runtime.tensorflow_c import tensors

# What makes a handle, by what ends it. TF_LoadSessionFromSavedModel's session is one; so are an output's tensors.
MAKES = {
    "TF_NewStatus": "status",
    "TF_NewSessionOptions": "options",
    "TF_NewGraph": "graph",
    "TF_LoadSessionFromSavedModel": "session",
    "TF_NewTensor": "tensor",
    "TF_AllocateTensor": "tensor",
}
ENDS = {
    "TF_DeleteStatus": "status",
    "TF_DeleteSessionOptions": "options",
    "TF_DeleteGraph": "graph",
    "TF_DeleteSession": "session",
    "TF_DeleteTensor": "tensor",
}


class CountingApi:
    """Passes everything on to the real Api, and counts."""

    def __init__(self, api: Any) -> None:
        self._api = api
        self.live: Counter[str] = Counter()
        self.made: Counter[str] = Counter()
        self.broken: dict[str, Callable[..., Any]] = {}  # in place of a function, where a test wants it to fail
        self._tensors: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        function = self.broken.get(name) or getattr(self._api, name)
        if name == "run_unchecked":
            return self._run(function)
        if name in MAKES:
            return self._makes(name, function)
        if name in ENDS:
            return self._ends(name, function)
        if name in ("TF_StringInit", "TF_StringDealloc"):
            return self._string(1 if name == "TF_StringInit" else -1, function)
        return function

    def _makes(self, name: str, function: Any) -> Any:
        def make(*arguments: Any) -> Any:
            handle = function(*arguments)
            if handle:
                self._count(MAKES[name], handle)
            return handle

        make.argtypes = getattr(function, "argtypes", None)  # type: ignore[attr-defined]
        return make

    def _count(self, kind: str, handle: Any) -> None:
        self.live[kind] += 1
        self.made[kind] += 1
        if kind == "tensor":
            assert handle not in self._tensors, "a tensor was made twice"
            self._tensors.add(handle)

    def _ends(self, name: str, function: Any) -> Any:
        def end(*arguments: Any) -> Any:
            self.live[ENDS[name]] -= 1
            if ENDS[name] == "tensor":
                self._tensors.remove(arguments[0])  # KeyError: deleted twice, or never given
            return function(*arguments)

        return end

    def _run(self, function: Any) -> Any:
        def run(*arguments: Any) -> Any:
            function(*arguments)
            fetched = arguments[6]
            for handle in fetched:
                if handle:
                    self._count("tensor", handle)

        return run

    def _string(self, step: int, function: Any) -> Any:
        def count(address: Any) -> Any:
            self.live["string"] += step
            self.made["string"] += step > 0
            return function(address)

        return count

    def left(self) -> dict[str, int]:
        """Return the handles that are alive, by kind, and the arrays that TensorFlow still holds."""
        alive = {kind: count for kind, count in self.live.items() if count}
        if tensors._lent:
            alive["lent"] = len(tensors._lent)
        return alive
