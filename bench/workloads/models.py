"""The models: a table of our own and the catalogue of keras.applications as `keras:NAME`. Loads no framework."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bench.errors import UsageError, unknown_name

KERAS = "keras:"
"""What the names of keras.applications begin with."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model: what it takes, what it tells apart and what makes it."""

    name: str
    """As in --model."""
    builder: str
    """module:function, called with the row; returns a Keras model that ends in logits."""
    image_size: int
    """Height and width of its images [pixels]."""
    least_size: int
    """The smallest images that leave its last layers something to work on [pixels]."""
    channels: int
    num_classes: int
    head: int
    """Layers with weights at the end that are the classifier head; those before them are the base."""
    batch_norm: bool
    """It normalises by the batch that a replica has, so that what it trains depends on how images are shared out."""
    float64: bool
    """TensorFlow has all its operations in float64."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.image_size, self.image_size, self.channels

    def resized(self, image_size: int | None, num_classes: int | None) -> ModelSpec:
        """The model for other images and classes; None leaves its own. Raises UsageError for images too small."""
        if image_size is not None and image_size < self.least_size:
            raise UsageError(
                f"--image-size {image_size} leaves nothing of the image before the last layers of model "
                f"{self.name!r}: give at least {self.least_size}"
            )
        return replace(self, image_size=image_size or self.image_size, num_classes=num_classes or self.num_classes)


_VGG_HEAD = 3
"""Dense layers."""


def _own(
    name: str,
    module: str,
    size: int,
    channels: int,
    classes: int,
    *,
    least: int,
    head: int = 1,
    norm: bool = False,
    float64: bool = True,
) -> ModelSpec:
    return ModelSpec(
        name=name,
        builder=f"bench.workloads.{module}:{name}",
        image_size=size,
        least_size=least,
        channels=channels,
        num_classes=classes,
        head=head,
        batch_norm=norm,
        float64=float64,
    )


def _application(name: str, size: int, least: int = 32) -> ModelSpec:
    return ModelSpec(
        name=KERAS + name,
        builder="bench.workloads.catalogue:application",
        image_size=size,
        least_size=least,
        channels=3,
        num_classes=1000,
        head=_VGG_HEAD if name.startswith("VGG") else 1,
        batch_norm=not name.startswith("VGG"),
        float64=True,
    )


MODELS = {
    spec.name: spec
    for spec in (
        _own("mnist_cnn", "cnn", 28, 1, 10, least=16),
        _own("digits_cnn", "cnn", 28, 1, 5, least=6, head=2),
        _own("transfer_cnn", "cnn", 28, 1, 5, least=10),
        _own("fashion_cnn", "cnn", 28, 1, 10, least=8, head=3),
        _own("lenet5", "cnn", 32, 1, 10, least=32, head=2),
        _own("cifar_cnn", "cnn", 32, 3, 10, least=16),
        _own("alexnet", "alexnet", 227, 3, 1000, least=67, head=3, float64=False),
        _own("small_xception", "xception", 180, 3, 10, least=1, norm=True),
        _own("vgg16", "vgg", 224, 3, 1000, least=32, head=_VGG_HEAD),
        _own("vgg19", "vgg", 224, 3, 1000, least=32, head=_VGG_HEAD),
        _own("vgg16_cifar", "vgg", 32, 3, 10, least=32, head=2),
        _own("mobilenetv2_mnist", "catalogue", 96, 3, 10, least=32, norm=True),
    )
}
"""Models by name, without the catalogue."""

CATALOGUE = {
    spec.name: spec
    for spec in (
        _application("Xception", 299, least=71),
        _application("VGG16", 224),
        _application("VGG19", 224),
        *(_application(f"ResNet{depth}{version}", 224) for version in ("", "V2") for depth in (50, 101, 152)),
        _application("InceptionV3", 299, least=75),
        _application("InceptionResNetV2", 299, least=75),
        _application("MobileNet", 224),
        _application("MobileNetV2", 224),
        *(_application(f"DenseNet{depth}", 224) for depth in (121, 169, 201)),
        _application("NASNetMobile", 224),
        _application("NASNetLarge", 331),
        *(_application(f"EfficientNetB{n}", s) for n, s in enumerate((224, 240, 260, 300, 380, 456, 528, 600))),
    )
}
"""keras.applications by name."""


def model_spec(name: str, image_size: int | None = None, num_classes: int | None = None) -> ModelSpec:
    """The row of a model, for other images or classes where they are given. Raises UsageError for a name that no table
    holds and for images that are too small."""
    known = MODELS | CATALOGUE
    if name not in known:
        raise unknown_name("model", name, known)
    return known[name].resized(image_size, num_classes)
