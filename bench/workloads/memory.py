"""How much memory a training step needs, from its layers' shapes: a prediction to stand beside the measured peak.

Training keeps what the backward pass will need, from the forward pass of a layer to its backward pass; inference keeps
no tensor longer than until the last layer that reads it. `predict` goes through the layers backwards, sums up what is
there while each has its turn, and takes the turn at which the sum is largest. Loads no framework: any object with
Keras's attributes will do. docs/arithmetic.md works through an example by hand.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

Kernels = Literal["onednn", "eigen", "cudnn"]
"""The library that computes the layers: oneDNN or Eigen on a CPU, cuDNN on a GPU."""

_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "uint8": 1, "bool": 1, "int32": 4, "int64": 8}

_WEIGHTED = frozenset({"Conv2D", "Conv2DTranspose", "DepthwiseConv2D", "SeparableConv2D", "Dense"})
"""Products with a kernel: its gradient needs the layer's input, that of the input needs the kernel."""

_KEEPS_NOTHING = frozenset(
    {"InputLayer", "Add", "Average", "Concatenate", "Subtract", "ZeroPadding2D", "Cropping2D", "UpSampling2D"}
    | {"Flatten", "Reshape", "AveragePooling2D", "GlobalAveragePooling2D", "Rescaling", "Normalization", "Identity"}
    | {"CustomScaleLayer"}
)
_KEEPS_INPUT = frozenset({"Multiply", "LayerNormalization"})
_KEEPS_BOTH = frozenset({"MaxPooling2D", "GlobalMaxPooling2D", "LocalResponseNormalization"})
_DROPS = frozenset({"Dropout", "SpatialDropout2D"})
_ACTIVATES = frozenset({"Activation", "ReLU"})

_VIEWS = frozenset({"Flatten", "Reshape", "Identity"})
"""Their result is their input under another shape."""
_PASSES_GRADIENT_ON = _ACTIVATES | {"Add"}
"""The gradient of their result is that of their inputs, or takes its place."""

_BY_OUTPUT = frozenset(
    {"relu", "relu6", "leaky_relu", "tanh", "sigmoid", "hard_sigmoid", "softmax", "elu", "selu", "softplus"}
)
"""Activations whose derivative is computed from their result. Others keep what they were given."""

_REGION_REST = 128 << 20
"""TensorFlow's allocator gives a tensor the whole chunk that it has found where less than this, and less than half of
the chunk, would be left over (`BFCAllocator::FindChunkPtr`)."""


_WORKING_SET = 30 << 20
"""Bytes of images, laid out as matrices, that Eigen's gradients of a convolution multiply at once
(`Conv2DCustomBackpropFilterOp` and `Conv2DCustomBackpropInputOp`; TensorFlow takes them for the L3 cache)."""
_ONE_IMAGE_EACH = 256 << 10
"""The gradient of the input takes image by image where the matrices of an image have more bytes for each thread."""
_POOLING_SCRATCH = 12
"""Bytes that Eigen's gradient of max pooling needs for each result: where its maximum was, and the result again."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Bytes on one device at the moment of a step when most are in use."""

    weights: int
    """Trained and frozen ones, and what batch normalisation counts along."""
    slots: int
    """The optimizer's own variables."""
    input: int
    """Images that the input pipeline holds in the same memory, and the batch that lies ready for the next step."""
    activations: int
    """Kept for the backward pass, the batch among them; in the forward phase what the layers that run read and make."""
    gradients: int
    """Of weights."""
    working: int
    """Gradients of activations, scratch memory of kernels, and new values of weights and slots beside the old ones."""
    padding: int
    """What the allocator gives the step's largest tensor beyond its size."""

    @property
    def total(self) -> int:
        """The predicted peak of the framework's allocator."""
        return sum(int(getattr(self, field.name)) for field in fields(self))


def predict(
    model: Any,
    *,
    batch: int,
    train: bool = True,
    slot_bytes: int = 0,
    held_bytes: int = 0,
    together: bool = False,
    kernels: Kernels = "onednn",
    threads: int = 1,
) -> Prediction | None:
    """What a step of `batch` images needs; None where the model holds a layer that is not known here.

    `train` is False for the forward phase. `slot_bytes` are the optimizer's variables, `held_bytes` the images that
    the input pipeline keeps in the device's memory. `together`: all gradients are there before any weight changes, and
    beside them what is made of them: their means over the replicas, or the same without the loss scale. `kernels`:
    oneDNN's max pooling keeps one byte more for every result; Eigen's gradients of convolutions and max pooling need
    scratch memory, which depends on the `threads` of an operation.
    """
    graph = _Graph(model)
    if any(call.kind not in _KNOWN for call in graph.calls):
        return None
    image = sum(math.prod(tensor.shape[1:]) for tensor in model.inputs)
    peak = (
        _training(graph, batch, slot_bytes, together=together, kernels=kernels, threads=threads)
        if train
        else _inference(graph, batch)
    )
    weights = [variable for variable in model.variables if variable.dtype in _BYTES]
    largest_weight = max((_size(weight) for weight in weights), default=0)
    return Prediction(
        weights=sum(map(_size, weights)),
        slots=slot_bytes if train else 0,
        input=held_bytes + batch * image * _BYTES["float32"],
        activations=peak.activations,
        gradients=peak.gradients,
        working=peak.working,
        padding=_padding(peak.largest_tensor) if peak.largest_tensor > largest_weight else 0,
    )


@dataclass(frozen=True)
class _Call:
    """A layer's place in the graph. Tensors are known by a number; those in one buffer by the same."""

    layer: Any
    kind: str
    inputs: tuple[Any, ...]
    output: Any

    @property
    def trained(self) -> bool:
        return bool(self.layer.trainable_variables)

    @cached_property
    def trained_bytes(self) -> int:
        return sum(_size(variable) for variable in self.layer.trainable_variables)


class _Graph:
    """The layers in the order of the forward pass, those of models within the model among them."""

    def __init__(self, model: Any) -> None:
        self._same: dict[int, int] = {}
        self.calls = list(self._walk(model))

    def key(self, tensor: Any) -> int:
        """The same for a tensor within a model and for what it is outside, and for a view of a tensor."""
        key = id(tensor)
        while key in self._same:
            key = self._same[key]
        return key

    def _walk(self, model: Any) -> Iterator[_Call]:
        for layer in model.layers:
            # No public name tells what a model within a model was called with.
            node = layer._inbound_nodes[0]
            if hasattr(layer, "layers"):
                inside = zip(layer.inputs, node.input_tensors, strict=True)
                self._same |= {id(inner): id(outer) for inner, outer in inside}
                results = zip(node.output_tensors, layer.outputs, strict=True)
                self._same |= {id(outer): id(inner) for outer, inner in results}
                yield from (call for call in self._walk(layer) if call.kind != "InputLayer")
            else:
                (output,) = node.output_tensors
                if type(layer).__name__ in _VIEWS:
                    self._same[id(output)] = id(node.input_tensors[0])
                yield _Call(layer, type(layer).__name__, tuple(node.input_tensors), output)


@dataclass(frozen=True)
class _Peak:
    activations: int
    gradients: int
    working: int
    largest_tensor: int


class _Held:
    """Tensors, each with the first and the last turn (index of a layer) at which it is there."""

    def __init__(self) -> None:
        self._spans: dict[object, tuple[int, int, int]] = {}

    def add(self, key: object, size: int, first: int, last: int) -> None:
        """A tensor; the same one again is there at all turns from the first to the last."""
        _, begin, end = self._spans.get(key, (size, first, last))
        self._spans[key] = size, min(begin, first), max(end, last)

    def at(self, turn: int) -> int:
        """Bytes that are there at a turn."""
        return sum(size for size, first, last in self._spans.values() if first <= turn <= last)

    @property
    def largest(self) -> int:
        return max((size for size, _, _ in self._spans.values()), default=0)


def _training(graph: _Graph, batch: int, slot_bytes: int, *, together: bool, kernels: Kernels, threads: int) -> _Peak:
    """The turn that needs most. In the backward pass a layer's turn comes after those of all later layers."""
    reached = _reached(graph)
    backward = [turn for turn, call in enumerate(graph.calls) if graph.key(call.output) in reached]
    kept, flowing = _Held(), _Held()
    reading, place = _reading(graph, batch)
    end = len(graph.calls)
    owner: dict[int, int] = {}
    for turn in reversed(backward):
        call = graph.calls[turn]
        for what, size in _needed(graph, call, batch, reached, kernels).items():
            kept.add(what if what in place else (turn, what), size, turn, end)
            reading.add(place.get(what, (turn, what)), size, turn, end)
        # The gradient of a tensor is there from the turn of the last layer that reads it to that of who made it.
        result = owner.setdefault(graph.key(call.output), graph.key(call.output))
        flowing.add(result, batch * _image_bytes(call.output), turn, turn)
        for tensor in call.inputs:
            key = graph.key(tensor)
            if key in reached:
                owner.setdefault(key, result if call.kind in _PASSES_GRADIENT_ON else key)
                flowing.add(owner[key], batch * _image_bytes(tensor), turn, turn)
    trained = sum(call.trained_bytes for call in graph.calls)
    slots = round(slot_bytes / trained) if trained else 0
    peaks = [_Peak(reading.at(turn), 0, 0, 0) for turn in range(end)]
    for turn in backward:
        call = graph.calls[turn]
        # While the gradient of the layer's input is computed from a weight, the weight's new value needs a place of
        # its own (`PrepareToUpdateVariable`); an optimizer makes new values of its slots before it stores them.
        read = any(graph.key(tensor) in reached for tensor in call.inputs)
        updated = 0 if together else call.trained_bytes * (read + slots)
        gradients = sum(later.trained_bytes for later in graph.calls[turn:]) if together else call.trained_bytes
        scratch = _scratch(call, batch, read, threads) if kernels == "eigen" else 0
        peaks.append(_Peak(kept.at(turn), gradients, flowing.at(turn) + updated + scratch, 0))
    if together:
        largest = max((call.trained_bytes for call in graph.calls), default=0)
        peaks.append(_Peak(0, trained, trained + largest * slots, 0))
    top = max(peaks, key=lambda peak: peak.activations + peak.gradients + peak.working)
    return replace(top, largest_tensor=max(reading.largest, flowing.largest))


def _reached(graph: _Graph) -> set[int]:
    """The tensors that the backward pass computes a gradient of: all that a trained weight has had a part in."""
    reached: set[int] = set()
    for call in graph.calls:
        if call.trained or any(graph.key(tensor) in reached for tensor in call.inputs):
            reached.add(graph.key(call.output))
    return reached


def _needed(graph: _Graph, call: _Call, batch: int, reached: set[int], kernels: Kernels) -> dict[object, int]:
    """What the backward pass of a layer needs of the forward pass: a tensor of the graph, by its number, or something
    of the layer's own -> bytes."""
    kind, layer = call.kind, call.layer
    inputs: dict[object, int] = {graph.key(tensor): batch * _image_bytes(tensor) for tensor in call.inputs}
    output: dict[object, int] = {graph.key(call.output): batch * _image_bytes(call.output)}
    results = batch * math.prod(call.output.shape[1:])
    if kind in _WEIGHTED:
        needed: dict[object, int] = {**inputs} if call.trained else {}
        needed |= _needed_by_activation(layer, {"before the activation": sum(output.values())}, output)
        narrow = _BYTES[layer.compute_dtype] if layer.compute_dtype != "float32" else 0
        if narrow and inputs.keys() & reached:
            needed["narrow weights"] = narrow * sum(math.prod(weight.shape) for weight in layer.variables)
        if kind == "SeparableConv2D":
            per_position = math.prod(layer.depthwise_kernel.shape[2:])
            needed["depthwise result"] = results // call.output.shape[-1] * per_position * _BYTES[layer.compute_dtype]
        return needed
    if kind in _ACTIVATES:
        return _needed_by_activation(layer, inputs, output)
    if kind == "BatchNormalization":
        # Frozen it is a product with constants. In half precision it computes on a copy in float32.
        wide = all(tensor.dtype == "float32" for tensor in call.inputs)
        return {} if not call.trained else {**inputs} if wide else {"wide input": results * _BYTES["float32"]}
    if kind in _DROPS:
        return {"mask": results} if layer.rate else {}
    if kind in _KEEPS_BOTH:
        return {**inputs, **output, **({"mask": results} if kind == "MaxPooling2D" and kernels == "onednn" else {})}
    return {**inputs} if kind in _KEEPS_INPUT else {}


def _scratch(call: _Call, batch: int, read: bool, threads: int) -> int:
    """The scratch memory of Eigen's kernels for the gradients of a layer [bytes]. That of its input is computed only
    where it is `read`."""
    if call.kind == "MaxPooling2D":
        return batch * int(math.prod(call.output.shape[1:])) * _POOLING_SCRATCH
    if call.kind != "Conv2D":
        return 0
    kernel = call.layer.kernel.shape
    positions, window, filters = int(math.prod(call.output.shape[1:-1])), int(math.prod(kernel[:-1])), int(kernel[-1])
    width = _BYTES[call.layer.compute_dtype]
    patches = positions * window * width
    image = patches + (positions + window) * filters * width
    images = math.ceil(_WORKING_SET / image)
    of_input = 1 if batch == 1 or image >= _ONE_IMAGE_EACH * threads else images
    return patches * (images * call.trained + of_input * read)


_KNOWN = (
    _WEIGHTED | _KEEPS_NOTHING | _KEEPS_INPUT | _KEEPS_BOTH | _DROPS | _ACTIVATES | frozenset({"BatchNormalization"})
)


def _needed_by_activation(layer: Any, given: dict[object, int], result: dict[object, int]) -> dict[object, int]:
    name = "relu" if type(layer).__name__ == "ReLU" else getattr(layer.activation, "__name__", "")
    return {} if name == "linear" else {**(result if name in _BY_OUTPUT else given)}


def _inference(graph: _Graph, batch: int) -> _Peak:
    """The layer of the forward pass at which most is there: its input, its output, what later layers will read."""
    reading, _ = _reading(graph, batch)
    return _Peak(max(map(reading.at, range(len(graph.calls)))), 0, 0, reading.largest)


def _reading(graph: _Graph, batch: int) -> tuple[_Held, dict[object, object]]:
    """(tensors from the turn of the layer that makes them to that of the last that reads them, each tensor's place:
    that of its input for an activation, which overwrites it)."""
    held, place = _Held(), dict[object, object]()
    for turn, call in enumerate(graph.calls):
        for tensor in call.inputs:
            # A Sequential model does not list the layer that stands for its input.
            held.add(place.setdefault(graph.key(tensor), graph.key(tensor)), batch * _image_bytes(tensor), turn, turn)
        key = graph.key(call.output)
        place.setdefault(key, place[graph.key(call.inputs[0])] if call.kind in _ACTIVATES else key)
        held.add(place[key], batch * _image_bytes(call.output), turn, turn)
    return held, place


def _padding(largest_tensor: int) -> int:
    """No tensor before was as large, so this one opens a region of memory, whose size is a power of two, and takes it
    whole if too little would be left over."""
    rest = (1 << math.ceil(math.log2(largest_tensor))) - largest_tensor
    return rest if rest < _REGION_REST else 0


def _image_bytes(tensor: Any) -> int:
    return int(math.prod(tensor.shape[1:])) * _BYTES[tensor.dtype]


def _size(variable: Any) -> int:
    return int(math.prod(variable.shape)) * _BYTES[variable.dtype]
