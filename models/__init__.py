"""The model families. `create_model` builds one by name, `list_models` names them."""

from models import convit, cvt, vit  # noqa: F401  importing a family registers its models
from models.profile import count_macs, count_parameters
from models.registry import ModelInfo, canonical_name, create_model, list_models, model_defaults, model_info

__all__ = [
    "ModelInfo",
    "canonical_name",
    "count_macs",
    "count_parameters",
    "create_model",
    "list_models",
    "model_defaults",
    "model_info",
]
