"""Properties of each page: complete, self-contained, and readable at any width."""

import re
import shutil
import subprocess
from base64 import b64decode
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here to open the page in")


class Tags(HTMLParser):
    """Every tag with its attributes, and whether all are closed in order."""

    VOID = frozenset({"meta", "link", "br", "hr", "img", "input", "source"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check_self_contained(page: str) -> None:
    """The page loads and runs nothing."""
    tags = Tags(page)
    assert tags.open == []
    assert not {tag for tag, _ in tags.elements} & {"script", "iframe", "object", "embed"}
    [policy] = [meta["content"] for _, meta in tags.elements if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    for tag, attributes in tags.elements:
        for name, value in attributes.items():
            if name in ("src", "srcset", "href", "xlink:href"):
                allowed = "data:image/svg+xml;base64," if tag in ("img", "source") else ("#", "data:,")
                assert (value or "").startswith(allowed), (tag, value)
            assert not name.startswith("on")
    assert re.findall(r"url\((?!#)|@import|https?://(?!www\.w3\.org/)", page) == []


def pictures(page: str, attribute: str = "src") -> list[str]:
    """The SVG of each image in a page; with ``srcset`` those for dark ground."""
    encoded = re.findall(rf'{attribute}="data:image/svg\+xml;base64,([^"]*)"', page)
    return [b64decode(data).decode() for data in encoded]


def chromium(address: str, profile, *options: str) -> subprocess.CompletedProcess[str]:
    quiet = "--disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update"
    return subprocess.run(
        [
            str(CHROMIUM),
            "--headless",
            "--no-sandbox",
            *quiet.split(),
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            f"--user-data-dir={profile}",
            *options,
            address,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


def check_fits(page: str, folder: Path, *, scrolling: str = "none") -> None:
    """Loads the page into frames from a phone's to a desktop's width; the outer page's text contains the measurements.

    Args:
        page: Its text.
        folder: A working folder.
        scrolling: A CSS selector of boxes that scroll; their content may be wider than the page.
    """
    widths = (320, 390, 600, 820, 1280)
    frames = "".join(f'<iframe width="{w}" height="800" srcdoc="{escape(page)}"></iframe>' for w in widths)
    outer = folder / "outer.html"
    outer.write_text(
        f"""<!doctype html><meta charset="utf-8">{frames}<p id="measured"></p><script>
        addEventListener("load", () => {{
          const of = (frame) => {{
            const page = frame.contentDocument.documentElement;
            const outside = [...page.querySelectorAll("td, p, dd, li, pre, figure, img, h1, h3, .scroll")]
              .filter((e) => !e.parentElement.closest("{scrolling}"))
              .filter((e) => e.getBoundingClientRect().right > page.clientWidth + 0.5).length;
            return [page.clientWidth, page.scrollWidth, outside].join(" ");
          }};
          measured.textContent = [...document.querySelectorAll("iframe")].map(of).join(";");
          console.error("the log works");
        }});</script>"""
    )
    browser = chromium(outer.as_uri(), folder / "profile", "--dump-dom", "--enable-logging=stderr", "--v=0")
    widths_line = re.search(r'<p id="measured">([^<]+)</p>', browser.stdout)
    assert widths_line is not None
    for width, line in zip(widths, widths_line.group(1).split(";"), strict=True):
        inner, scroll, outside = map(int, line.split())
        assert inner == width
        assert scroll <= width, f"at {width} px the page is {scroll} px wide"
        assert outside == 0, f"at {width} px {outside} elements are cut off"
    complaints = [line for line in browser.stderr.splitlines() if "CONSOLE" in line]
    assert len(complaints) == 1, complaints
    assert "the log works" in complaints[0]
