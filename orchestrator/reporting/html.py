"""Parts of an HTML page that needs no network: head, tables, embedded pictures."""

import base64
import html
from collections.abc import Sequence

from matplotlib import pyplot as plt

from orchestrator.reporting.strength_figures import as_png

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem }
h1, h2, h3 { line-height: 1.2 } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ddd }
table { border-collapse: collapse; font-size: 13px; margin: .7rem 0 }
td, th { padding: .2rem .6rem; border-bottom: 1px solid #e5e5e5; text-align: right; white-space: nowrap }
td:first-child, th:first-child { text-align: left } th { background: #f6f6f6 }
img { max-width: 100%; height: auto } .scroll { overflow-x: auto } .note { color: #666 }
details { margin: .5rem 0 } summary { cursor: pointer; color: #35c }
"""


def whole_page(title: str, parts: Sequence[str]) -> str:
    """Return the page; `title` is text, `parts` are HTML."""
    title = html.escape(title)
    head = f"<meta charset='utf-8'><meta name='viewport' content='width=device-width'><title>{title}</title>"
    return f"<!doctype html><html lang='en'><head>{head}<style>{STYLE}</style></head><body>" + (
        "\n".join(parts) + "</body></html>\n"
    )


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return an HTML table; all cells are text and are escaped."""
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(text))}</td>" for text in line) + "</tr>" for line in lines
    )
    return f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def figure(picture: "plt.Figure") -> str:
    """Return a plot as an embedded picture, and close it."""
    return image(as_png(picture))


def image(png: bytes) -> str:
    """Return a PNG as an embedded picture."""
    return f"<p><img src='data:image/png;base64,{base64.b64encode(png).decode()}' alt=''></p>"
