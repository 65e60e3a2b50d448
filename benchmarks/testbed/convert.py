"""Convert SmolLM2's GGUF weights into what vLLM loads. Run by the engine's interpreter, once.

Usage: ``python convert.py WEIGHTS.gguf DIRECTORY``
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def convert(weights: Path, directory: Path) -> None:
    """Dequantize the weights to bfloat16 and save model and tokenizer into ``directory``."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # before the import: the library reads it once
    # Only the engine's environment has these two.
    import torch  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415
    from transformers import (  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415
        AutoModelForCausalLM,
        AutoTokenizer,
        GgufConfig,
    )

    source, name = str(weights.parent), weights.name
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(
        source,
        gguf_file=name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
