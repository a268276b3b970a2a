"""An image file gives the very values that its preprocessing, done by hand, gives."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from qdqgraph.calibration.data.images import EXAMPLE, Preprocess, load_image, parse_preprocess
from qdqgraph.calibration.data.sources import InputSpec, open_source
from qdqgraph.errors import CalibrationError, UsageError

Image = pytest.importorskip("PIL.Image")

F32 = np.dtype(np.float32)
ANY = [InputSpec("x", F32, ("N", None, None, None))]


def pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, data: np.ndarray) -> np.ndarray:
    Image.fromarray(data).save(path)
    return data


def load(path: Path, spec: str) -> np.ndarray:
    return load_image(path, parse_preprocess(spec), where="sample 0")


# --- the spec ----------------------------------------------------------------------------------


def test_a_full_spec_is_read():
    text = (
        "size=256,crop=224x192,mean=0.485:0.456:0.406,std=0.229:0.224:0.225,"
        "layout=nhwc,color=bgr,scale=127.5"
    )
    assert parse_preprocess(text) == Preprocess(
        size=256,
        crop=(224, 192),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        scale=127.5,
        color="bgr",
        layout="nhwc",
    )


def test_what_is_left_out_keeps_its_default():
    assert parse_preprocess(" Size=8X6 ".lower()) == Preprocess(size=(8, 6))
    assert parse_preprocess("mean=0.5, std=0.25") == Preprocess(mean=(0.5,), std=(0.25,))
    assert parse_preprocess("layout=NHWC").layout == "nhwc"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sise=256", "unknown key 'sise' [preprocess 'sise=256']: did you mean 'size'?"),
        ("zzz=1", "unknown key 'zzz' [preprocess 'zzz=1']: the keys are size, crop, mean, std"),
        ("size=256,size=128", "key 'size' is given twice"),
        ("256", f"'256' is not key=value [preprocess '256']: such as {EXAMPLE}"),
        ("", "'' is not key=value"),
        ("size=256,", "'' is not key=value"),
        ("size=big", "size=big cannot be read [preprocess 'size=big']: size takes 256"),
        ("size=0", "size takes 256"),
        ("size=1x2x3", "size takes 256"),
        ("crop=-4", "crop takes 224"),
        ("mean=0.5:0.5", "mean takes 0.5, or one number for each channel"),
        ("mean=nan", "mean=nan cannot be read"),
        ("mean=0.1:0.2:0.3,color=gray", "mean takes 0.5, or one number for each channel"),
        ("std=0", "std takes 0.5, or one positive number"),
        ("scale=0", "scale takes a positive number such as 255"),
        ("scale=1:2", "scale takes a positive number such as 255"),
        ("color=yuv", "color takes rgb, bgr or gray"),
        ("layout=chw", "layout takes nchw or nhwc"),
    ],
)
def test_a_bad_spec_is_a_usage_error_with_the_fix(text: str, message: str):
    with pytest.raises(UsageError) as caught:
        parse_preprocess(text)
    assert message in str(caught.value)


# --- the values --------------------------------------------------------------------------------
# Exact equality throughout: the oracle does the same float32 operations in the stated order.


def test_normalisation_is_scale_then_mean_then_std(tmp_path: Path):
    data = save(tmp_path / "a.png", pixels(5, 7))
    spec = "mean=0.485:0.456:0.406,std=0.229:0.224:0.225"
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    expected = (data.astype(np.float32) / np.float32(255) - mean) / std
    result = load(tmp_path / "a.png", spec)
    assert result.dtype == F32
    assert result.shape == (1, 3, 5, 7)
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(result[0], expected.transpose(2, 0, 1))
    np.testing.assert_array_equal(load(tmp_path / "a.png", spec + ",layout=nhwc")[0], expected)


def test_bgr_reverses_the_channels_before_mean_and_std(tmp_path: Path):
    data = save(tmp_path / "a.png", pixels(2, 3))
    result = load(tmp_path / "a.png", "color=bgr,scale=1,mean=1:2:3,std=1")
    expected = data[:, :, ::-1].astype(np.float32) - np.float32([1, 2, 3])
    np.testing.assert_array_equal(result[0], expected.transpose(2, 0, 1))


def test_gray_is_rounded_bt601_luma_in_one_channel(tmp_path: Path):
    data = save(tmp_path / "a.png", pixels(4, 3)).astype(np.int64)
    result = load(tmp_path / "a.png", "color=gray,scale=1")
    assert result.shape == (1, 1, 4, 3)
    # Pillow's fixed-point form of 0.299 R + 0.587 G + 0.114 B
    luma = (data @ np.array([19595, 38470, 7471]) + 0x8000) >> 16
    np.testing.assert_array_equal(result[0, 0], luma.astype(np.float32))


@pytest.mark.parametrize(
    ("height", "width", "resized"),
    [(10, 15, (4, 6)), (15, 10, (6, 4)), (10, 13, (4, 5)), (8, 8, (4, 4))],
)
def test_size_is_the_shorter_side_and_the_longer_is_truncated(
    tmp_path: Path, height: int, width: int, resized: tuple[int, int]
):
    save(tmp_path / "a.png", pixels(height, width))
    assert load(tmp_path / "a.png", "size=4").shape == (1, 3, *resized)


def test_halving_is_the_antialiased_triangle_filter(tmp_path: Path):
    # One row scaled 8 → 4: output i is centred at 2i + 1 with a triangle of half-width 2, so an
    # interior pixel is (1 3 3 1) / 8 of inputs 2i - 1 .. 2i + 2, and at the edge the taps left
    # are renormalised: (3 3 1) / 7. Pillow rounds its fixed-point sum to the nearest integer.
    row = np.array([0, 8, 80, 160, 248, 96, 16, 40], dtype=np.int64)
    data = np.repeat(row[None, :, None], 3, axis=2).astype(np.uint8)
    save(tmp_path / "a.png", np.repeat(data, 2, axis=0))
    result = load(tmp_path / "a.png", "size=2x4,scale=1")
    weights = np.zeros((4, 8))
    for i in range(4):
        taps = {2 * i - 1: 1, 2 * i: 3, 2 * i + 1: 3, 2 * i + 2: 1}
        for tap, weight in taps.items():
            if 0 <= tap < 8:
                weights[i, tap] = weight
        weights[i] /= weights[i].sum()
    expected = np.floor(weights @ row + 0.5)
    np.testing.assert_array_equal(result[0, 0, 0], expected)


@pytest.mark.parametrize(
    ("height", "width", "top", "left"),
    [(6, 8, 1, 2), (7, 9, 2, 2), (9, 5, 2, 0), (4, 4, 0, 0)],  # 1.5 → 2, 2.5 → 2, 0.5 → 0
)
def test_centre_crop_rounds_half_to_even(
    tmp_path: Path, height: int, width: int, top: int, left: int
):
    data = save(tmp_path / "a.png", pixels(height, width))
    result = load(tmp_path / "a.png", "crop=4,scale=1,layout=nhwc")
    expected = data[top : top + 4, left : left + 4]
    np.testing.assert_array_equal(result[0], expected.astype(np.float32))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1"])
def test_other_modes_are_converted_to_rgb(tmp_path: Path, mode: str):
    image = Image.fromarray(pixels(4, 4)).convert(mode)
    image.save(tmp_path / "a.png")
    expected = np.asarray(image.convert("RGB"), dtype=np.float32)
    result = load(tmp_path / "a.png", "scale=1,layout=nhwc")
    np.testing.assert_array_equal(result[0], expected)


# --- folders -----------------------------------------------------------------------------------


def test_a_folder_is_fed_in_name_order(tmp_path: Path):
    first, second = pixels(4, 4, 1), pixels(4, 4, 2)
    save(tmp_path / "b.PNG", second)
    save(tmp_path / "a.bmp", first)
    (tmp_path / "notes.txt").write_text("ignored")
    feeds = list(open_source(tmp_path, ANY, preprocess="scale=1,layout=nhwc"))
    assert [(feed.index, feed.origin) for feed in feeds] == [(0, "a.bmp"), (1, "b.PNG")]
    np.testing.assert_array_equal(feeds[0].arrays["x"][0], first.astype(np.float32))
    np.testing.assert_array_equal(feeds[1].arrays["x"][0], second.astype(np.float32))


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_lossy_formats_are_decoded_by_pillow(tmp_path: Path, suffix: str):
    path = tmp_path / f"a{suffix}"
    save(path, pixels(8, 8))
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"), dtype=np.float32)
    (feed,) = open_source(path, ANY, preprocess="scale=1,layout=nhwc")
    np.testing.assert_array_equal(feed.arrays["x"][0], expected)


def test_images_are_stacked_to_a_fixed_batch(tmp_path: Path):
    for i in range(5):
        save(tmp_path / f"{i}.png", pixels(4, 4, i))
    notices: list[str] = []
    spec = [InputSpec("x", F32, (2, 3, 4, 4))]
    feeds = list(open_source(tmp_path, spec, preprocess="scale=1", notices=notices))
    assert [feed.origin for feed in feeds] == ["0.png..1.png", "2.png..3.png"]
    np.testing.assert_array_equal(
        feeds[1].arrays["x"][1], pixels(4, 4, 3).transpose(2, 0, 1).astype(np.float32)
    )
    assert notices == ["the last 1 sample(s), from 4.png, do not fill a batch of 2 and are dropped"]


def test_float16_inputs_are_cast_and_uint8_inputs_take_the_raw_pixels(tmp_path: Path):
    data = save(tmp_path / "a.png", pixels(4, 4))
    half = InputSpec("x", np.dtype(np.float16), (1, 4, 4, 3))
    (feed,) = open_source(tmp_path, [half], preprocess="layout=nhwc")
    expected = (data.astype(np.float32) / np.float32(255)).astype(np.float16)
    np.testing.assert_array_equal(feed.arrays["x"][0], expected)

    raw = InputSpec("x", np.dtype(np.uint8), (1, 4, 4, 3))
    (feed,) = open_source(tmp_path, [raw], preprocess="scale=1,layout=nhwc")
    assert feed.arrays["x"].dtype == np.uint8
    np.testing.assert_array_equal(feed.arrays["x"][0], data)

    with pytest.raises(CalibrationError) as caught:
        list(open_source(tmp_path, [raw], preprocess="layout=nhwc"))
    assert "sample 0 (a.png)" in str(caught.value)
    assert "input 'x' is float32, the model takes uint8" in str(caught.value)


def test_only_the_images_asked_for_are_decoded(tmp_path: Path):
    save(tmp_path / "a.png", pixels(4, 4))
    (tmp_path / "b.png").write_bytes(b"no image")
    assert len(list(open_source(tmp_path, ANY, preprocess="scale=1", samples=1))) == 1


# --- what is refused ---------------------------------------------------------------------------


def test_a_folder_without_a_preprocess_shows_one(tmp_path: Path):
    save(tmp_path / "a.png", pixels(4, 4))
    with pytest.raises(CalibrationError) as caught:
        open_source(tmp_path, ANY)
    assert "1 image(s), and nothing says how the model wants them" in str(caught.value)
    assert f"--preprocess {EXAMPLE} (preprocess=)" in str(caught.value)
    parse_preprocess(EXAMPLE)  # the example is a spec


def test_images_and_arrays_in_one_folder_are_refused(tmp_path: Path):
    save(tmp_path / "a.png", pixels(4, 4))
    np.save(tmp_path / "a.npy", np.zeros((1, 2)))
    with pytest.raises(CalibrationError, match=r"1 array file.* 1 image.*folder of its own"):
        open_source(tmp_path, ANY, preprocess="scale=1")


def test_images_for_two_inputs_are_refused(tmp_path: Path):
    save(tmp_path / "a.png", pixels(4, 4))
    inputs = [InputSpec("left", F32, None), InputSpec("right", F32, None)]
    with pytest.raises(CalibrationError, match=r"model has 2.*'left', 'right'"):
        open_source(tmp_path, inputs, preprocess="scale=1")


def test_a_preprocess_for_arrays_is_refused(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.zeros((1, 2)))
    with pytest.raises(UsageError, match=r"images only .*a\.npy.*leave it out"):
        open_source(tmp_path / "a.npy", ANY, preprocess="scale=1")


def refusal(folder: Path, inputs: list[InputSpec], preprocess: str) -> str:
    save(folder / "a.png", pixels(8, 8))
    with pytest.raises(CalibrationError) as caught:
        list(open_source(folder, inputs, preprocess=preprocess))
    return str(caught.value)


def test_a_file_that_is_no_image_is_named(tmp_path: Path):
    (tmp_path / "b.png").write_bytes(b"no image")
    text = refusal(tmp_path, ANY, "scale=1")
    assert "b.png is no image" in text
    assert "[sample 1 (b.png)]" in text
    assert "remove the file" in text


def test_a_truncated_image_is_named(tmp_path: Path):
    save(tmp_path / "whole.png", pixels(64, 64))
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "whole.png").unlink()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    text = refusal(tmp_path, ANY, "scale=1")
    assert "cut.png is no image" in text
    assert "[sample 1 (cut.png)]" in text


def test_16_bit_images_are_refused_since_they_would_be_clipped(tmp_path: Path):
    save(tmp_path / "deep.png", np.full((4, 4), 40000, dtype=np.uint16))
    text = refusal(tmp_path, ANY, "scale=1")
    assert "deep.png has more than 8 bits a channel (mode I;16) [sample 1 (deep.png)]" in text
    assert "convert it to 8 bits" in text


def test_an_image_smaller_than_the_crop_is_named(tmp_path: Path):
    text = refusal(tmp_path, ANY, "crop=16x8")
    assert "8x8 is smaller than the crop of 16x8 [sample 0 (a.png)]" in text
    assert "resize first, with size=16 or more" in text


def test_a_wrong_size_is_refused_by_the_model_shape(tmp_path: Path):
    text = refusal(tmp_path, [InputSpec("x", F32, (1, 3, 4, 4))], "scale=1")
    assert "input 'x' has shape [1, 3, 8, 8], the model takes [1, 3, 4, 4]" in text
    assert "[sample 0 (a.png)]" in text


def test_a_wrong_layout_is_refused_with_the_other(tmp_path: Path):
    text = refusal(tmp_path, [InputSpec("x", F32, (1, 8, 8, 3))], "scale=1")
    assert "input 'x' has shape [1, 3, 8, 8]" in text
    assert "layout=nhwc" in text


def test_without_pillow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save(tmp_path / "a.png", pixels(4, 4))
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.delitem(sys.modules, "PIL.Image")
    with pytest.raises(UsageError) as caught:
        next(open_source(tmp_path, ANY, preprocess="scale=1"))
    assert "reading images needs Pillow" in str(caught.value)
    assert "pip install 'qdqgraph[images]'" in str(caught.value)
