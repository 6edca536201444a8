"""One text with tables and pictures, as Markdown beside its pictures and as one self-contained HTML file."""

from __future__ import annotations

import base64
import html
import os
import re
from collections.abc import Sequence
from pathlib import Path

__all__ = ["Document"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 1em 0; }
td, th { border: 1px solid #ccc; padding: .25em .6em; text-align: left; }
img { max-width: 100%; } h1, h2, h3 { line-height: 1.2; } figcaption { color: #555; } figure { margin: 1em 0; }
code { background: #f3f3f3; padding: 0 .2em; }
"""


class Document:
    """Collects blocks; :meth:`write` makes both files. Text may hold `code` and nothing else of Markdown."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._markdown: list[str] = [f"# {title}", ""]
        self._html: list[tuple[str, Path | None]] = [(f"<h1>{_text(title)}</h1>", None)]

    def heading(self, text: str, level: int = 2) -> None:
        """A heading."""
        self._markdown += [f"{'#' * level} {text}", ""]
        self._html.append((f"<h{level}>{_text(text)}</h{level}>", None))

    def paragraph(self, text: str) -> None:
        """A paragraph."""
        self._markdown += [text, ""]
        self._html.append((f"<p>{_text(text)}</p>", None))

    def items(self, texts: Sequence[str]) -> None:
        """A list."""
        self._markdown += [*(f"- {t}" for t in texts), ""]
        self._html.append(("<ul>" + "".join(f"<li>{_text(t)}</li>" for t in texts) + "</ul>", None))

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table."""
        self._markdown += ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
        self._markdown += ["| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in rows] + [""]
        head = "".join(f"<th>{_text(c)}</th>" for c in header)
        body = "".join("<tr>" + "".join(f"<td>{_text(c)}</td>" for c in row) + "</tr>" for row in rows)
        self._html.append((f"<table><tr>{head}</tr>{body}</table>", None))

    def picture(self, path: Path, caption: str) -> None:
        """A PNG or JPEG file, which lies in the folder of the document or elsewhere."""
        self._markdown += [f"![{caption}](<{path}>)", ""]
        self._html.append((caption, path))

    def link(self, text: str, path: Path) -> None:
        """A reference to another file."""
        self._markdown += [f"[{text}](<{path}>)", ""]
        self._html.append((f'<p><a href="<{path}>">{_text(text)}</a></p>', None))

    def write(self, folder: Path) -> tuple[Path, Path]:
        """``report.md`` and ``report.html``; pictures are named relative to the folder, and embedded in the HTML."""
        folder.mkdir(parents=True, exist_ok=True)
        markdown = re.sub(r"\(<([^>]+)>\)", lambda m: f"({_relative(m[1], folder)})", "\n".join(self._markdown))
        parts = []
        for text, picture in self._html:
            if picture is None:
                parts.append(re.sub(r'href="<([^>]+)>"', lambda m: f'href="{_relative(m[1], folder)}"', text))
                continue
            kind = "png" if picture.suffix == ".png" else "jpeg"
            data = base64.b64encode(picture.read_bytes()).decode("ascii")
            parts.append(
                f'<figure><img src="data:image/{kind};base64,{data}" alt="{_text(text)}">'
                f"<figcaption>{_text(text)}</figcaption></figure>"
            )
        page = (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(self.title)}</title>'
            f"<style>{_STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
        )
        targets = folder / "report.md", folder / "report.html"
        targets[0].write_text(markdown.rstrip() + "\n", encoding="utf-8")
        targets[1].write_text(page, encoding="utf-8")
        return targets


def _relative(path: str, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix().replace(" ", "%20")


def _text(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
