"""Describe the network of a custom model, so that a receiver can rebuild it from parameters and labels, without running foreign code."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator

LOWEST_RATE, HIGHEST_RATE = 4_000, 192_000  # hertz
EPSILON = 1e-5  # default of PyTorch's layer norm

# Bounds far above every known model, so that a false description cannot fill the memory.
Width = Annotated[int, Field(ge=1, le=16_384)]
Count = Annotated[int, Field(ge=1, le=256)]
Kernel = Annotated[int, Field(ge=1, le=4_096)]


class Architecture(BaseModel):
    """Parameters of ``torchaudio.models.wav2vec2_model`` under its names, without those that are used only in training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    extractor_mode: Literal["group_norm", "layer_norm"]
    extractor_conv_layer_config: Annotated[tuple[tuple[Width, Kernel, Kernel], ...], Field(min_length=1, max_length=32)] = Field(
        description="channels, kernel and stride of each layer"
    )
    extractor_conv_bias: bool
    encoder_embed_dim: Width
    encoder_pos_conv_kernel: Kernel
    encoder_pos_conv_groups: Width
    encoder_num_layers: Count
    encoder_num_heads: Width
    encoder_ff_interm_features: Width
    encoder_layer_norm_first: bool

    @model_validator(mode="after")
    def _divides(self) -> "Architecture":
        for name in ("encoder_num_heads", "encoder_pos_conv_groups"):
            if self.encoder_embed_dim % getattr(self, name):
                raise ValueError(f"encoder_embed_dim {self.encoder_embed_dim} is not a multiple of {name} {getattr(self, name)}")
        return self


class Network(BaseModel):
    """Description of a custom model's network in manifests and bitstreams."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: Architecture | None = Field(
        default=None, description="parameters of a wav2vec 2.0 or HuBERT network; None with a factory"
    )
    factory: Annotated[str, Field(max_length=300)] | None = Field(
        default=None, description="package.module:factory, for information and comparison; a receiver never imports it from a file"
    )
    labels: Annotated[tuple[Annotated[str, Field(max_length=200)], ...], Field(min_length=2, max_length=65_536, fail_fast=True)] = Field(
        description="labels by index: the blank first, | for the space between words, an empty text for a label that prints nothing"
    )
    sample_rate: Annotated[int, Field(ge=LOWEST_RATE, le=HIGHEST_RATE)]
    normalised_waveform: bool
    epsilon: Annotated[float, Field(gt=0, le=1)] = Field(default=EPSILON, description="epsilon of that normalisation")
    num_param: Annotated[int, Field(gt=0)] = Field(description="number of parameters, before the weight norm is folded")

    @model_validator(mode="after")
    def _one_origin(self) -> "Network":
        if (self.architecture is None) == (self.factory is None):
            raise ValueError("a network has either an architecture or a factory")
        return self

    @model_serializer(mode="wrap")
    def _short(self, plain: Any) -> dict[str, Any]:
        """Leave out empty fields, because the description is sent with every bitstream."""
        return {name: value for name, value in plain(self).items() if value is not None}
