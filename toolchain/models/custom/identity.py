"""What tells custom models apart: their description, weights and code."""

import hashlib
from dataclasses import replace

from device_runner.bitstream.network import Network
from toolchain.models.anchor_model import AnchorModel
from toolchain.models.test_cases import TestCase
from toolchain.models.weight_files import digest_of


def identified(model: AnchorModel, code: str = "") -> AnchorModel:
    """Return the model with a digest in ``weights``, so that results of different models are never mixed.

    Args:
        model: Custom model.
        code: Identity of the factory's code.
    """
    described = network_of(model.case).model_dump_json()
    digest = hashlib.sha256(f"{described} {digest_of(model.state())} {code}".encode()).hexdigest()
    return replace(model, weights=f"own, sha256 {digest[:16]}")


def description_digest(case: TestCase) -> str:
    """Return a digest of a custom model's description, to identify weights that are stored without it."""
    return f"description {hashlib.sha256(network_of(case).model_dump_json().encode()).hexdigest()[:16]}"


def network_of(case: TestCase) -> Network:
    """Return the network description of a custom model's test case."""
    assert case.network is not None, "a custom model has a description"
    return case.network
