"""Rounds weights to GGUF's types by llama.cpp's own quantizer, inputs weighed by their size."""

from collections.abc import Mapping, Sequence
from typing import Final

from torch import Tensor

from autocompress.operators.base import Law, Statistics, check
from autocompress.operators.ggml_blocks import quantize
from autocompress.operators.packed import PackedWeight
from autocompress.spaces.settings import GGUF_TYPES, WeightSetting

_IS_GGUF: Final = Law(
    f"setting in ({', '.join(GGUF_TYPES)})",
    lambda setting: setting.is_gguf,
    "Take another quantizer for other settings.",
)


class GgmlRounding:
    """What `llama-quantize --imatrix` does: an input counts by its mean square in calibration.

    Source: `ggml_quantize_chunk` of llama.cpp, `tools/imatrix`.
    """

    version = "ggml-1"

    def build(
        self, weight: Tensor, statistics: Statistics, settings: Sequence[WeightSetting]
    ) -> Mapping[WeightSetting, PackedWeight]:
        """Build every setting of a (rows, columns) weight.

        Raises:
            SpecError: If a setting is none of GGUF's types, or its blocks do not fit the columns.
            EngineError: If the packages of the extra `llama-cpp` lack.
        """
        check(weight, statistics, settings, _IS_GGUF)
        rows, columns = weight.shape
        importance = statistics.hessian.diagonal()
        return {
            setting: PackedWeight(
                setting, (rows, columns), {"blocks": quantize(weight, str(setting), importance)}
            )
            for setting in settings
        }
