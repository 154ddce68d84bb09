"""How far a training is: a bar on a terminal, a line every half minute elsewhere."""

from __future__ import annotations

import copy
import time
from collections import deque
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from flanlite.terminal import in_time

LINE_SECONDS = 30.0
RATE_STEPS = 20
"""Speed and remaining time are those of the last steps: the first ones are slower than the rest."""


class TrainingProgress:
    """Shows steps, loss, tokens/s and remaining time on a console."""

    def __init__(self, console: Console) -> None:
        self.console = copy.copy(console)
        # Where it writes now, even while the stdout of others is sent elsewhere.
        self.console.file = console.file
        self._ticks: deque[tuple[float, int, int, int]] = deque(maxlen=RATE_STEPS + 1)
        self._last_line = 0.0
        self._task: TaskID | None = None
        columns = (TextColumn("{task.completed}/{task.total}"), BarColumn(), TextColumn("{task.description}"))
        self._bar = Progress(*columns, console=self.console, transient=True) if console.is_terminal else None

    def __enter__(self) -> TrainingProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def start(self, step: int, steps: int) -> None:
        """Note the beginning, or another one: `step` of `steps` are done, and the token counts start from nothing."""
        self._ticks.clear()
        self._ticks.append((time.monotonic(), step, 0, 0))
        self._last_line = time.monotonic()
        if self._bar is not None and self._task is None:
            self._task = self._bar.add_task("starting", total=steps, completed=step)

    def advance(self, step: int, steps: int, loss: float, tokens: int, trained_tokens: int) -> None:
        """Show a finished step; the token counts are sums since the beginning, without padding."""
        now = time.monotonic()
        self._ticks.append((now, step, tokens, trained_tokens))
        text = self._describe(steps, loss)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, description=text)
        elif now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            self.say(f"step {step}/{steps}  {text}")

    def say(self, text: str) -> None:
        """A line of its own, above the bar."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _describe(self, steps: int, loss: float) -> str:
        then, first_step, first_tokens, first_trained = self._ticks[0]
        now, step, tokens, trained = self._ticks[-1]
        seconds = max(now - then, 1e-9)
        left = (steps - step) * seconds / max(step - first_step, 1)
        rate, trained_rate = (tokens - first_tokens) / seconds, (trained - first_trained) / seconds
        return f"loss {loss:.4f}  {rate:,.0f} tokens/s, {trained_rate:,.0f} of them trained  {in_time(left)} left"
