"""A study's space is made again from what was kept of its model's shape."""

import json

import pytest

from autocompress.models.architecture import read_architecture, shape_of
from autocompress.pipeline.shapes import from_document, space_of, to_document
from autocompress.spec import from_mapping
from tests.tiny_models import make_config


@pytest.mark.parametrize(
    ("space", "bits"),
    [("depth,width", "8"), ("bits", "8,3,nvfp4"), ("depth,width,bits,sparsity,kv", "8,3")],
)
def test_a_document_gives_the_space_back(family: str, space: str, bits: str) -> None:
    spec = from_mapping(
        {
            "model": "m",
            "target_bytes": "50%",
            "space": space,
            "bits": bits,
            "sparsities": "0.5,2:4",
            "strategy": "given",
            "start": "recipe.yaml",
        }
    )
    shape = shape_of(read_architecture(make_config(family)))

    document = json.loads(json.dumps(to_document(shape)))

    assert space_of(spec, from_document(document)) == space_of(spec, shape)


def test_a_space_has_the_genes_that_a_spec_names() -> None:
    shape = shape_of(read_architecture(make_config()))
    spec = from_mapping(
        {"model": "m", "target_bits": 4, "space": "bits,kv", "bits": "4,fp8", "kv_bits": 8}
        | {"strategy": "given", "start": "recipe.yaml"}
    )

    genes = space_of(spec, shape).genes

    assert [(gene.name, [str(s) for s in gene.settings]) for gene in genes[:3]] == [
        ("bits qkv", ["dense", "fp8", "w4g32"]),
        ("bits o", ["dense", "fp8", "w4g32"]),
        ("kv", ["dense", "kv8"]),
    ]
