"""What verbs print: progress lines on stderr, results on stdout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

from rich.console import Console
from rich.progress import Progress as Bar
from rich.table import Table


@cache
def errors() -> Console:
    """The console for everything that is not the result."""
    return Console(stderr=True, highlight=False)


def say(line: str) -> None:
    """A progress line."""
    errors().print(line, markup=False, soft_wrap=True)


Progress = Callable[[str, int, int], None]
"""called with what is being done, how much of it is done, and how much there is"""


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A progress bar on a terminal, nothing elsewhere; it goes away when the work is done."""
    if not errors().is_terminal:
        yield lambda what, done, total: None
        return
    with Bar(console=errors(), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A result table on stdout; the first column is text, the others are numbers."""
    made = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        made.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        made.add_row(*row)
    Console(highlight=False).print(made)
