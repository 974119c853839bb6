"""The libraries that running an export does without: PyYAML, safetensors, tqdm.

Modules take them from here, so that who lacks one reads a line and no traceback. infer.py and serve.py reach this
module for a YAML file alone.
"""

from util import check_libraries

check_libraries("PyYAML", "safetensors", "tqdm")

import yaml  # noqa: E402
from safetensors import SafetensorError, safe_open  # noqa: E402
from tqdm import tqdm  # noqa: E402

__all__ = ["SafetensorError", "safe_open", "tqdm", "yaml"]
