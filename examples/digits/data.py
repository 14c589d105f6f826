"""The data: scikit-learn's handwritten digits, 1,797 scans of 8x8 inside its package, and how they are parted."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SEED = 1797
HELD_OUT = 360  # scans, a fifth

Scans = NDArray[np.float32]  # [n, 8, 8] or one [8, 8], values 0..16
Labels = NDArray[np.int64]  # [n], the digit that each shows


@dataclass(frozen=True, slots=True)
class Digits:
    scans: Scans
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64]) -> "Digits":
        return Digits(self.scans[rows], self.labels[rows])

    def fingerprint(self) -> str:
        """Return the SHA-256 of all scans, one byte a value, followed by all labels, one byte each."""
        return hashlib.sha256(
            self.scans.astype(np.uint8).tobytes() + self.labels.astype(np.uint8).tobytes()
        ).hexdigest()


def load() -> Digits:
    digits = load_digits()
    return Digits(digits.images.astype(np.float32), digits.target.astype(np.int64))


def split(digits: Digits) -> tuple[Digits, Digits]:
    """Return what is trained on and what is held out, every class in both as often as in the whole."""
    rows = np.arange(len(digits))
    trained_on, held_out = train_test_split(rows, test_size=HELD_OUT, stratify=digits.labels, random_state=SEED)
    return digits.take(trained_on), digits.take(held_out)
