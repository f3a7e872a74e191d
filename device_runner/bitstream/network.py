"""Describe the network of a custom model, so that a receiver can rebuild it from parameters and labels, without running foreign code."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator

LOWEST_RATE, HIGHEST_RATE = 4_000, 192_000  # hertz
EPSILON = 1e-5  # default of PyTorch's layer norm

# Bounds far above every known model, so that a false description cannot fill the memory.
Width = Annotated[int, Field(ge=1, le=16_384)]
Count = Annotated[int, Field(ge=1, le=256)]
Kernel = Annotated[int, Field(ge=1, le=4_096)]


class GatedPositions(BaseModel):
    """WavLM: attention with gated relative positions, in every layer. Names of the fields are those of Hugging Face's ``config.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["wavlm"] = "wavlm"
    num_buckets: Annotated[int, Field(ge=4, le=16_384)]
    max_bucket_distance: Annotated[int, Field(ge=2, le=1_000_000)]

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if self.max_bucket_distance <= self.num_buckets // 4:
            raise ValueError(f"max_bucket_distance {self.max_bucket_distance} is not above a quarter of num_buckets {self.num_buckets}")
        return self


class StackedPositions(BaseModel):
    """data2vec: a stack of positional convolutions instead of one. ``encoder_pos_conv_kernel`` and ``_groups`` are those of each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["data2vec"] = "data2vec"
    num_conv_pos_embeddings: Count = Field(description="number of convolutions")


class Conformer(BaseModel):
    """wav2vec 2.0 with Conformer layers, which have positions in their attention. The positional convolution is absent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["conformer"] = "conformer"
    hidden_act: Literal["gelu", "swish"]
    conv_depthwise_kernel_size: Kernel
    position_embeddings_type: Literal["relative", "rotary"] | None
    rotary_embedding_base: Annotated[float, Field(gt=1, le=1e9)] = 10_000

    @model_validator(mode="after")
    def _centred(self) -> Self:
        if self.conv_depthwise_kernel_size % 2 == 0:
            raise ValueError(f"conv_depthwise_kernel_size {self.conv_depthwise_kernel_size} is not odd")
        return self


class LanguageAdapters(BaseModel):
    """MMS: wav2vec 2.0 with a small adapter of one language after each layer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["adapters"] = "adapters"
    adapter_attn_dim: Width


Variant = Annotated[GatedPositions | StackedPositions | Conformer | LanguageAdapters, Field(discriminator="kind")]


class Architecture(BaseModel):
    """Parameters of ``torchaudio.models.wav2vec2_model`` under its names, without those that are used only in training.

    A ``variant`` is what a related family of networks has besides or instead. Readers that do not know it refuse the description.
    """

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
    variant: Variant | None = Field(default=None, description="what differs in related families; absent for wav2vec 2.0 and HuBERT")

    @model_validator(mode="after")
    def _divides(self) -> Self:
        for name in ("encoder_num_heads", "encoder_pos_conv_groups"):
            if self.encoder_embed_dim % getattr(self, name):
                raise ValueError(f"encoder_embed_dim {self.encoder_embed_dim} is not a multiple of {name} {getattr(self, name)}")
        return self

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if isinstance(self.variant, LanguageAdapters) and not self.encoder_layer_norm_first:
            raise ValueError("adapter_attn_dim requires encoder_layer_norm_first (do_stable_layer_norm)")
        if isinstance(self.variant, Conformer):
            odd = self.encoder_embed_dim // self.encoder_num_heads if self.variant.position_embeddings_type == "rotary" else 0
            if odd % 2 or self.encoder_embed_dim % 2:
                raise ValueError("position_embeddings_type requires an even number of features, in each head too if it is rotary")
        return self

    @model_serializer(mode="wrap")
    def _short(self, plain: Any) -> dict[str, Any]:
        """Leave out an empty variant: older readers and digests do not know the field."""
        return {name: value for name, value in plain(self).items() if name != "variant" or value is not None}


class Network(BaseModel):
    """Description of a custom model's network in manifests and bitstreams."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: Architecture | None = Field(default=None, description="parameters of the network; None with a factory")
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
