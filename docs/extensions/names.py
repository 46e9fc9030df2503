"""Names in docstrings, found wherever they are documented: ``LGA`` in any module is `lossaware.LGA`."""

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment


def setup(app: Sphinx) -> dict[str, Any]:
    """Look up what Sphinx does not find."""
    app.connect("missing-reference", _find)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _find(app: Sphinx, env: BuildEnvironment, node: nodes.Element, text: nodes.Node) -> nodes.Node | None:
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py":
        return None
    python = env.domains["py"]
    # A name that was imported has two entries for one place.
    matches = {
        (entry.docname, entry.node_id)
        for name, entry in python.data["objects"].items()
        if name.endswith(f".{target}") and not entry.aliased
    }
    if len(matches) != 1:
        return None
    page, place = matches.pop()
    uri = app.builder.get_relative_uri(node["refdoc"], page)
    return nodes.reference("", "", text, internal=True, refuri=f"{uri}#{place}", reftitle=target)
