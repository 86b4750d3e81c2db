"""Decodes the images of records, for training, evaluation and `bench.data check` alike. Loads TensorFlow."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

_RGB, _CMYK = 3, 4


def decode(encoded: tf.Tensor, window: Callable[[tf.Tensor], tf.Tensor], shape: tuple[int, int, int]) -> tf.Tensor:
    """[h, w, c] float32 in [0, 1]: a window of an image, resized (bilinear) to `shape`.

    `window` gives (top, left, height, width) for the image's [h, w, c]. Only the window of a JPEG is decoded. CMYK
    JPEGs, PNG, GIF (its first frame) and BMP, of which public shards hold a few, are decoded whole.
    """
    height, width, channels = shape

    def of_any() -> tf.Tensor:
        pixels = tf.io.decode_image(encoded, channels=_RGB, expand_animations=False)
        top, left, high, wide = tf.unstack(window(tf.shape(pixels)))
        pixels = pixels[top : top + high, left : left + wide]
        return tf.image.rgb_to_grayscale(pixels) if channels != _RGB else pixels

    def of_jpeg() -> tf.Tensor:
        size = tf.image.extract_jpeg_shape(encoded)

        def cropped() -> tf.Tensor:
            return tf.image.decode_and_crop_jpeg(
                encoded, window(size), channels=channels, dct_method="INTEGER_FAST", fancy_upscaling=False
            )

        return tf.cond(size[2] == _CMYK, of_any, cropped)  # which TensorFlow does not turn gray

    image = tf.cond(tf.io.is_jpeg(encoded), of_jpeg, of_any)
    return tf.ensure_shape(tf.image.resize(image, (height, width)), shape) * (1.0 / 255.0)


def whole(size: tf.Tensor) -> tf.Tensor:
    """The window that is the whole image."""
    return tf.stack([0, 0, size[0], size[1]])
