"""What a receiver has to know of a model that is no test case's to build its network anew: parameters and labels, never code."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator

LOWEST_RATE, HIGHEST_RATE = 4_000, 192_000  # hertz
EPSILON = 1e-5  # of torch's layer norm

# Bounds far above every known recogniser: a false description must not fill the memory.
Width = Annotated[int, Field(ge=1, le=16_384)]
Count = Annotated[int, Field(ge=1, le=256)]
Kernel = Annotated[int, Field(ge=1, le=4_096)]


class Architecture(BaseModel):
    """Parameters of ``torchaudio.models.wav2vec2_model``, by its names; those that act in training alone are left out."""

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
                raise ValueError(f"encoder_embed_dim {self.encoder_embed_dim} is no multiple of {name} {getattr(self, name)}")
        return self


class Network(BaseModel):
    """A model of one's own: what manifests and bitstreams must say of it beside its name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: Architecture | None = Field(default=None, description="of a wav2vec 2.0 or HuBERT network; None: a factory makes it")
    factory: Annotated[str, Field(max_length=300)] | None = Field(
        default=None, description="package.module:factory; a name for people and for comparison, nobody imports it because a file has it"
    )
    labels: Annotated[tuple[Annotated[str, Field(max_length=200)], ...], Field(min_length=2, max_length=65_536)] = Field(
        description="by index, the blank first, | for the space between words, empty where a label prints nothing"
    )
    sample_rate: Annotated[int, Field(ge=LOWEST_RATE, le=HIGHEST_RATE)]
    normalised_waveform: bool
    epsilon: Annotated[float, Field(gt=0, le=1)] = Field(default=EPSILON, description="of that normalisation")
    num_param: Annotated[int, Field(gt=0)] = Field(description="parameters as the network is built, before its weight norm is folded")

    @model_validator(mode="after")
    def _one_origin(self) -> "Network":
        if (self.architecture is None) == (self.factory is None):
            raise ValueError("a network has either an architecture or a factory")
        return self

    @model_serializer(mode="wrap")
    def _short(self, plain: Any) -> dict[str, Any]:
        """Leave out what says nothing: the description is sent with every bitstream."""
        return {name: value for name, value in plain(self).items() if value is not None}
