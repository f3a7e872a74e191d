"""A scheme for asrdeploy with 4-bit weights in small groups and the output layer in fp32."""

from asrdeploy.schemes import Scheme

FINE4 = Scheme(
    name="fine4",
    summary="4-bit weights in groups of 32, dynamic 8-bit activations; output layer and convolutions in fp32",
    formats=("onnx",),
    products="int4",
    activations="dynamic",
    group=32,
    keep=("aux",),  # TorchAudio's name of the output layer
)
