"""How the site is built: ``sphinx-build -W -n docs OUT``. Nothing is fetched, not here nor by a reader's browser."""

import re
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from sphinx.application import Sphinx

from lossaware import __version__

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "extensions"))
(HERE / "examples").mkdir(exist_ok=True)
for notebook in HERE.parent.glob("examples/*.ipynb"):  # Sphinx reads only what is below this folder
    with suppress(FileExistsError):
        (HERE / "examples" / notebook.name).symlink_to(f"../../examples/{notebook.name}")

project = "lossaware"
author = "the lossaware authors"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "mathml",
    "measured",
    "figures_in_text",
    "names",
    "breaks",
]
exclude_patterns = ["_build", "extensions"]
html_theme = "furo"
html_show_copyright = False  # the licence says it
html_title = f"lossaware {__version__}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"  # by the browser itself: MathJax would come from somebody else's server
smartquotes = False  # commands are quoted in tables
pygments_style = "friendly"
pygments_dark_style = "native"

nb_execution_mode = "force"  # the notebooks of examples/ are kept without outputs
nb_execution_timeout = 240
nb_execution_raise_on_error = True

myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_ambiguous"]

# Docstrings name things in single backticks.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True}
# Extras that are not installed need no documentation of their own, but the modules that import them do.
autodoc_mock_imports = [name for name in ("jax", "optax", "lightning", "transformers") if find_spec(name) is None]
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# Names of other projects: their inventories would have to be downloaded at each build.
nitpick_ignore_regex = [
    (r"py:.*", r"(torch|jax|optax|collections|typing|pathlib|transformers|lightning|accelerate)\..*"),
    (r"py:.*", r"lossaware\.(attachment|stepper|step_hooks|loss_input)\..*"),  # what lga.compile() passes on
    (r"py:.*", r"(Any|Callable|Iterator|Mapping|Path|Protocol|Self|Tensor|Optimizer|nn\.Module|dist\.ProcessGroup)"),
]


def setup(app: Sphinx) -> None:
    """Links to notebooks work on GitHub, too, where they are beside this folder and not in it."""
    app.connect("source-read", _links_to_notebooks)


def _links_to_notebooks(app: Sphinx, page: str, source: list[str]) -> None:
    source[0] = re.sub(r"\[([^\]]+)\]\((?:\.\./)+examples/(\w+)\.ipynb\)", r"{doc}`\1 </examples/\2>`", source[0])
