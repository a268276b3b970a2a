"""An image file becomes the array the model was trained on, by a preprocessing that is stated.

    decode → color → resize to `size` → centre crop to `crop` → (x / scale - mean) / std → layout

Sizes and rounding are those of torchvision's Resize and CenterCrop on PIL images, so a spec
written after a training transform gives the same pixels:
https://docs.pytorch.org/vision/stable/transforms.html
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt

from qdqgraph.calibration.data.feeds import Array, InputSpec, nearest
from qdqgraph.calibration.data.tables import Row
from qdqgraph.errors import CalibrationError, UsageError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
EXAMPLE = "size=256,crop=224,mean=0.485:0.456:0.406,std=0.229:0.224:0.225"
_KEYS = {
    "size": "256, or HxW such as 256x320",
    "crop": "224, or HxW such as 224x288",
    "mean": "0.5, or one number for each channel such as 0.485:0.456:0.406",
    "std": "0.5, or one positive number for each channel such as 0.229:0.224:0.225",
    "scale": "a positive number such as 255",
    "color": "rgb, bgr or gray",
    "layout": "nchw or nhwc",
}
_Pixels: TypeAlias = npt.NDArray[np.float32]
_T = TypeVar("_T")
_BILINEAR = 2  # PIL.Image.Resampling.BILINEAR


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How the pixels of an image become the values of a model input.

    size: an int resizes the shorter side to it and the longer one to int(size · long / short);
    (height, width) resizes to exactly that; None keeps the image. Bilinear, antialiased.
    crop: height and width of the centre crop, from int(round((side - crop) / 2)); None keeps all.
    scale, mean, std: out = (x / scale - mean) / std in float32, x from 0 to 255; mean and std
    have one value or one for each channel, in the order in which the channels are fed.
    color: rgb, bgr, or gray (ITU-R 601 luma, one channel); alpha is dropped.
    layout: nchw or nhwc.
    The EXIF orientation is not applied, as in torchvision's ImageFolder.
    """

    size: int | tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float = 255.0
    color: str = "rgb"
    layout: str = "nchw"

    @property
    def keeps_values(self) -> bool:
        """True where out = x, so that the pixels may be fed as uint8."""
        return self.scale == 1 and set(self.mean) <= {0.0} and set(self.std) <= {1.0}


def parse_preprocess(text: str) -> Preprocess:
    """Read a spec of comma-separated `key=value`; what is left out keeps its default.

    Raises UsageError for an unknown or repeated key, naming the nearest, and for a bad value.

    >>> parse_preprocess("size=256,crop=224,mean=0.5,std=0.25").crop
    (224, 224)
    """
    where = f"preprocess '{text}'"
    given: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise UsageError(f"'{part}' is not key=value", where=where, fix=f"such as {EXAMPLE}")
        if key not in _KEYS:
            close = nearest(key, _KEYS)
            fix = f"did you mean '{close}'?" if close else f"the keys are {', '.join(_KEYS)}"
            raise UsageError(f"unknown key '{key}'", where=where, fix=fix)
        if key in given:
            raise UsageError(f"key '{key}' is given twice", where=where, fix="keep one of them")
        given[key] = value

    def read(key: str, convert: Callable[[str], _T], default: _T) -> _T:
        if key not in given:
            return default
        try:
            return convert(given[key].lower())
        except ValueError as error:
            what = f"{key}={given[key]} cannot be read"
            raise UsageError(what, where=where, fix=f"{key} takes {_KEYS[key]}") from error

    color = read("color", _one_of("rgb", "bgr", "gray"), "rgb")
    values = _numbers_for(1 if color == "gray" else 3)
    return Preprocess(
        size=read("size", _size, None),
        crop=read("crop", _sides, None),
        mean=read("mean", values, (0.0,)),
        std=read("std", lambda text: _positive(values(text)), (1.0,)),
        scale=read("scale", lambda text: _positive((_number(text),))[0], 255.0),
        color=color,
        layout=read("layout", _one_of("nchw", "nhwc"), "nchw"),
    )


def image_rows(paths: Iterable[Path], spec: InputSpec, preprocess: Preprocess) -> Iterator[Row]:
    """Yield each image as one sample of the model's only input, decoded when it is asked for."""
    first = spec.shape[0] if spec.shape else None
    batch = first if isinstance(first, int) and first > 0 else 1
    for index, path in enumerate(paths):
        array = load_image(path, preprocess, where=f"sample {index} ({path.name})")
        if spec.dtype == np.uint8 and preprocess.keeps_values:
            array = array.astype(np.uint8)
        yield Row(path.name, {spec.name: array}, batch)


def load_image(path: Path, preprocess: Preprocess, *, where: str) -> Array:
    """Return one image as float32 [1, C, H, W], or [1, H, W, C] for layout nhwc.

    Raises CalibrationError where the file cannot be decoded, has more than 8 bits a channel
    (Pillow would clip those to white) or is smaller than the crop; UsageError without Pillow.
    """
    try:
        pillow = cast(_Pillow, importlib.import_module("PIL.Image"))
    except ImportError as error:
        fix = "pip install 'qdqgraph[images]'"
        raise UsageError("reading images needs Pillow", where=str(path), fix=fix) from error
    try:
        with pillow.open(path) as image:
            if image.mode[0] in "IF":
                what = f"{path.name} has more than 8 bits a channel (mode {image.mode})"
                fix = "convert it to 8 bits as in training, or feed arrays in a .npz"
                raise CalibrationError(what, where=where, fix=fix)
            picture = image.convert("L" if preprocess.color == "gray" else "RGB")
    except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
        fix = "remove the file, or save it again as PNG or JPEG"
        raise CalibrationError(f"{path.name} is no image: {error}", where=where, fix=fix) from error
    if preprocess.size is not None:
        height, width = _resized(picture.height, picture.width, preprocess.size)
        picture = picture.resize((width, height), _BILINEAR)
    plane = np.asarray(picture, dtype=np.float32)
    pixels: _Pixels = plane if plane.ndim == 3 else plane[:, :, None]
    if preprocess.crop is not None:
        pixels = _centre_crop(pixels, preprocess.crop, where)
    if preprocess.color == "bgr":
        pixels = pixels[:, :, ::-1]
    mean, std = (np.asarray(v, dtype=np.float32) for v in (preprocess.mean, preprocess.std))
    scaled = pixels / np.float32(preprocess.scale)
    pixels = np.asarray((scaled - mean) / std, dtype=np.float32)
    if preprocess.layout == "nchw":
        pixels = np.transpose(pixels, (2, 0, 1))
    return np.ascontiguousarray(pixels[None])


def _resized(height: int, width: int, size: int | tuple[int, int]) -> tuple[int, int]:
    if isinstance(size, tuple):
        return size
    if height <= width:
        return size, int(size * width / height)
    return int(size * height / width), size


def _centre_crop(pixels: _Pixels, crop: tuple[int, int], where: str) -> _Pixels:
    height, width = pixels.shape[:2]
    if crop[0] > height or crop[1] > width:
        what = f"an image of {height}x{width} is smaller than the crop of {crop[0]}x{crop[1]}"
        fix = f"resize first, with size={max(crop)} or more"
        raise CalibrationError(what, where=where, fix=fix)
    top, left = round((height - crop[0]) / 2), round((width - crop[1]) / 2)
    return pixels[top : top + crop[0], left : left + crop[1]]


def _size(text: str) -> int | tuple[int, int]:
    return _sides(text) if "x" in text else _sides(text)[0]


def _sides(text: str) -> tuple[int, int]:
    sides = [int(side) for side in text.split("x")]
    if len(sides) > 2 or min(sides) < 1:
        raise ValueError(text)
    return sides[0], sides[-1]


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _numbers_for(channels: int) -> Callable[[str], tuple[float, ...]]:
    def read(text: str) -> tuple[float, ...]:
        numbers = tuple(_number(part) for part in text.split(":"))
        if len(numbers) not in (1, channels):
            raise ValueError(text)
        return numbers

    return read


def _positive(numbers: tuple[float, ...]) -> tuple[float, ...]:
    if min(numbers) <= 0:
        raise ValueError(numbers)
    return numbers


def _one_of(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(text)
        return text

    return read


class _Picture(Protocol):
    mode: str

    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    def convert(self, mode: str) -> _Picture: ...
    def resize(self, size: tuple[int, int], resample: int) -> _Picture: ...
    def __enter__(self) -> _Picture: ...
    def __exit__(self, *raised: object) -> None: ...


class _Pillow(Protocol):
    """The part of PIL.Image in use: the package is optional, so types can't come from it."""

    DecompressionBombError: type[Exception]

    def open(self, path: Path) -> _Picture: ...
