"""The demo network's file and its images, normalised as in training.

The network is a small CNN that reads handwritten digits; `benchmarks/make_demo.py` trains it and
writes both files. The images are scikit-learn's copy of UCI "Optical Recognition of Handwritten
Digits" (E. Alpaydin, C. Kaynak, 1998, https://doi.org/10.24432/C50P49, CC BY 4.0).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qdqgraph.errors import CalibrationError, ModelLoadError

PIXEL_MEAN = 4.9
PIXEL_STD = 6.0


@dataclass(frozen=True, slots=True)
class Digits:
    """Images for the demo network, ready for its input `images`.

    `calibration` and `test` are float32 [N, 1, 16, 16] and hold different images: the first were
    seen in training, the second were not. `labels` are the digits 0..9 of `test`, int64 [N].
    """

    calibration: npt.NDArray[np.float32]
    test: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


def model_path() -> Path:
    """The demo network as a float32 ONNX file, batch norms still in place.

    Raises `ModelLoadError` if the file did not come with the package.

    >>> model_path().name
    'digits_cnn.onnx'
    """
    path = _asset("digits_cnn.onnx")
    if not path.is_file():
        raise ModelLoadError(
            "the demo network is missing", where=str(path), fix="install qdqgraph again, unzipped"
        )
    return path


def load_digits() -> Digits:
    """The calibration images, and the test images with their labels.

    Raises `CalibrationError` if the file is missing or damaged.

    >>> load_digits().test.shape[1:]
    (1, 16, 16)
    """
    path = _asset("digits.npz")
    try:
        # Opened here because np.load leaves the file open when the archive is damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return Digits(
                calibration=to_images(stored["calibration"]),
                test=to_images(stored["test"]),
                labels=stored["labels"].astype(np.int64),
            )
    # BadZipFile and zlib.error share no base below Exception.
    except Exception as error:
        raise CalibrationError(
            f"the demo images cannot be read ({error})",
            where=str(path),
            fix="install qdqgraph again, unzipped",
        ) from error


def to_images(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Pixels 0..16 as network input: every pixel doubled both ways, mean and spread removed.

    uint8 [N, 8, 8] becomes float32 [N, 1, 16, 16], `(pixel - 4.9) / 6.0`. The two constants are
    the mean and standard deviation of the data set's pixels, rounded.

    >>> float(to_images(np.full((1, 8, 8), 16, np.uint8)).max())
    1.850000023841858
    """
    doubled = pixels.repeat(2, axis=1).repeat(2, axis=2)[:, np.newaxis]
    return ((doubled.astype(np.float64) - PIXEL_MEAN) / PIXEL_STD).astype(np.float32)


def _asset(name: str) -> Path:
    return Path(str(files("qdqgraph.demo").joinpath(name)))
