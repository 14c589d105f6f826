"""One decoded request."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from serving.signature import Signature


class Call(NamedTuple):
    """A signature, its inputs by name, and what its protocol must remember to write the answer."""

    signature: Signature
    inputs: Mapping[str, np.ndarray[Any, Any]]
    form: Any = None
