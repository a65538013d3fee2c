"""Text for a terminal and for pages: names come from models, and no name may write over a line or make one."""

from __future__ import annotations

import re
import sys
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

# Control and format characters, terminal escapes and changes of direction among them, and halves of surrogate pairs.
_NOT_SHOWN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)


def printable(text: str) -> str:
    r"""Return a text with its control characters, line breaks and tabs apart, as `\u001b`, which JSON reads back."""
    return _NOT_SHOWN.sub(lambda found: _escaped(found[0]), text)


def one_line(text: str) -> str:
    r"""Return `printable` text on one line: a line break is shown as `\n`."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def cell(text: str) -> str:
    """Return a text for a cell of a `rich` table: on one line, and no markup."""
    from rich.markup import escape

    return escape(one_line(text))


def say(*lines: object, file: IO[str] | None = None) -> None:
    """Print lines of `printable` text at once, on stdout unless a file is given."""
    print(*(printable(str(line)) for line in lines), sep="\n", file=file, flush=file is sys.stderr)


def console() -> Console:
    """Return a console on stdout; a file's lines need not fold."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=200)


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", errors="surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
