"""A desktop app that recognizes drawn shapes: the half without PyTorch, with numpy and tkinter only.

A thread pulls and compiles the model, with a progress bar, and can be cancelled; inference runs in OpenVINO's
threads. Only the window's own thread touches the window: the others put their results into a queue.
"""

from __future__ import annotations

import argparse
import textwrap
import threading
import tkinter as tk
from itertools import pairwise
from queue import SimpleQueue
from tkinter import ttk
from typing import TYPE_CHECKING, Any

import numpy as np

import npu_persist as npup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Strokes = list[list[tuple[float, float]]]

SIDE = 340
"""Pixels of the canvas, each way."""
TICK = 30
"""Milliseconds between two looks into the queue."""
COMPILE_TIMEOUT = 1800
"""Seconds. A compilation with a limit runs in a process of its own, which a cancellation can end."""
INK, PAPER, GROUND, QUIET, BAR, BEST = "#1f2933", "#ffffff", "#f2f4f7", "#66727f", "#b9cfe8", "#1769c2"
STAGES = {"pull": "Downloading", "compile": "Preparing for this device"}
ENOUGH = 0.5
"""So sure has the network to be of each shape that `--demo` draws."""


class LoadCancelledError(Exception):
    """The user cancelled the load."""


class LoadThread(threading.Thread):
    """Loads a model, and tells `tell` of the progress and at last of the model or the error."""

    def __init__(self, load: Callable[..., npup.Model], tell: Callable[[Any], None]) -> None:
        super().__init__(name="load", daemon=True)
        self._load = load
        self._tell = tell
        self.cancelled = threading.Event()

    def run(self) -> None:
        """Load."""
        try:
            model = self._load(progress=self._report)
        except (npup.NpuPersistError, LoadCancelledError) as error:
            self._tell(error)
            return
        if self.cancelled.is_set():  # too late to end it
            model.close()
            self._tell(LoadCancelledError())
        else:
            self._tell(model)

    def _report(self, event: npup.Progress) -> None:
        if self.cancelled.is_set():
            raise LoadCancelledError  # which ends the download or the compilation
        self._tell(event)


class Window:
    """The window.

    Args:
        reference: The bundle.
        device: OpenVINO's device string.
        options: More for `npu_persist.load`.
    """

    def __init__(self, reference: str, device: str, **options: Any) -> None:
        self.model: npup.Model | None = None
        self.answers: dict[str, float] = {}
        self.strokes: Strokes = []
        self._reference = reference
        self._device = device
        self._options = options
        self._told: SimpleQueue[Any] = SimpleQueue()
        self._thread: LoadThread | None = None
        self._asked: Strokes | None = None
        self.is_closed = False

        self.root = tk.Tk()
        self.root.title("Shapes")
        self.root.configure(bg=GROUND)
        self.root.resizable(width=False, height=False)
        self.root.protocol("WM_DELETE_WINDOW", self.close)
        self._style()
        self._lay_out()
        self._poll()
        self.load()

    def _style(self) -> None:
        style = ttk.Style(self.root)
        style.theme_use("clam")
        style.configure(".", background=GROUND, foreground=INK, font=("TkDefaultFont", 11))
        style.configure("Title.TLabel", font=("TkDefaultFont", 15, "bold"))
        style.configure("Quiet.TLabel", foreground=QUIET, font=("TkDefaultFont", 10))
        style.configure("TButton", padding=(14, 6), background="#e1e6ec", bordercolor="#c5ccd4", relief="flat")
        style.configure("TProgressbar", background=BEST, troughcolor="#dde2e8", bordercolor=GROUND, thickness=8)

    def _lay_out(self) -> None:
        frame = ttk.Frame(self.root, padding=24)
        frame.grid()
        ttk.Label(frame, text="Draw a shape", style="Title.TLabel").grid(sticky="w", pady=(0, 12))
        frame.rowconfigure(2, minsize=42)  # also where there is no bar
        self.canvas = tk.Canvas(
            frame, width=SIDE, height=SIDE, bg=PAPER, highlightthickness=1, highlightbackground="#c5ccd4"
        )
        self.canvas.grid(row=1, column=0)
        self.canvas.bind("<Button-1>", lambda event: self._begin(event.x, event.y))
        self.canvas.bind("<B1-Motion>", lambda event: self._go_on(event.x, event.y))
        self.chart = tk.Canvas(frame, width=250, height=SIDE, bg=GROUND, highlightthickness=0)
        self.chart.grid(row=1, column=1, padx=(28, 0))
        self.bar = ttk.Progressbar(frame)
        self.bar.grid(row=2, columnspan=2, sticky="ew", pady=(18, 6))
        self.status = ttk.Label(frame)
        self.status.grid(row=3, columnspan=2, sticky="w")
        self.reason = ttk.Label(frame, style="Quiet.TLabel", wraplength=SIDE + 270, justify="left")
        self.reason.grid(row=4, columnspan=2, sticky="w", pady=(2, 12))
        buttons = ttk.Frame(frame)
        buttons.grid(row=5, columnspan=2, sticky="ew")
        ttk.Button(buttons, text="Clear", command=self.clear).pack(side="left")
        self.button = ttk.Button(buttons)
        self.button.pack(side="right")

    def load(self) -> None:
        """Load the model, in a thread."""
        options = dict(self._options, device=self._device, compile_timeout=COMPILE_TIMEOUT)
        self._thread = LoadThread(lambda **more: npup.load(self._reference, **options, **more), self._told.put)
        self._thread.start()
        self._show("Loading…", "", "Cancel", self.cancel)
        self._show_busy()

    def cancel(self) -> None:
        """End the load."""
        if self._thread is not None:
            self._thread.cancelled.set()
            self._show("Cancelling…", "", None)

    def close(self) -> None:
        """Close the window, and wait until a load has ended."""
        self.is_closed = True
        self.root.destroy()
        if self._thread is not None:
            self._thread.cancelled.set()
            self._thread.join()
        while not self._told.empty():
            if isinstance(told := self._told.get(), npup.Model):
                told.close()
        if self.model is not None:
            self.model.close()

    def clear(self) -> None:
        """Forget the drawing."""
        self.strokes, self.answers = [], {}
        self.canvas.delete("all")
        self._draw_chart()

    @property
    def is_loading(self) -> bool:
        """Whether the thread that loads runs."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def is_settled(self) -> bool:
        """Whether the answers are those to the drawing as it is."""
        return self._asked is None and bool(self.answers)

    def _begin(self, x: float, y: float) -> None:
        self.strokes.append([(x, y)])

    def _go_on(self, x: float, y: float) -> None:
        if not self.strokes:  # cleared while the button was down
            self._begin(x, y)
        self.canvas.create_line(*self.strokes[-1][-1], x, y, width=5, fill=INK, capstyle="round")
        self.strokes[-1].append((x, y))
        self._ask()

    def _ask(self) -> None:
        """Ask what the drawing is, unless the last answer is still awaited."""
        if self.model is None or self._asked is not None or not any(len(stroke) > 1 for stroke in self.strokes):
            return
        self._asked = [list(stroke) for stroke in self.strokes]
        (segments,) = self.model.inputs
        future = self.model.submit(make_segments(self._asked, segments.shape[1]))
        future.add_done_callback(lambda done: self._told.put(done.result()))

    def _poll(self) -> None:
        while not self._told.empty():
            self._take(self._told.get())
        if not self.is_closed:
            self.root.after(TICK, self._poll)

    def _take(self, told: Any) -> None:
        if isinstance(told, npup.Progress):
            if self._thread is not None and not self._thread.cancelled.is_set():
                self._show_progress(told)
        elif isinstance(told, npup.Model):
            self._take_model(told)
        elif isinstance(told, LoadCancelledError):
            self._show("Cancelled.", "", "Load", self.load)
        elif isinstance(told, npup.NpuPersistError):
            self._show("The model could not be loaded.", str(told), "Try again", self.load)
        else:
            self._take_answer(told[0])

    def _take_model(self, model: npup.Model) -> None:
        self.model = model
        report = model.report
        where = ", ".join(report.execution_devices) or report.loaded_device
        reasons = [each.reason for each in report.attempts if each.device == self._device != report.loaded_device]
        instead = f" instead of {self._device}" if reasons else ""
        self._show(f"Ready. Runs on {where}{instead}.", reasons[-1] if reasons else "", None)
        self.bar.grid_remove()
        self._draw_chart()
        self._ask()

    def _take_answer(self, answer: Iterable[float]) -> None:
        assert self.model is not None
        names = self.model.bundle.manifest.metadata["shapes"]
        is_old = self._asked != self.strokes
        self._asked = None
        if self.strokes:
            self.answers = dict(zip(names, map(float, answer), strict=True))
            self._draw_chart()
        if is_old:
            self._ask()

    def _draw_chart(self) -> None:
        self.chart.delete("all")
        if self.model is None:
            return
        names = self.model.bundle.manifest.metadata["shapes"]
        best = max(self.answers, key=self.answers.__getitem__) if self.answers else None
        height = SIDE / len(names)
        for row, name in enumerate(names):
            top, share = row * height + height / 2 - 18, self.answers.get(name, 0.0)
            color = BEST if name == best else QUIET
            self.chart.create_text(0, top, text=name, anchor="w", fill=color, font=("TkDefaultFont", 12))
            if self.answers:
                self.chart.create_text(250, top, text=f"{share:.0%}", anchor="e", fill=color)
            self.chart.create_rectangle(0, top + 15, 250, top + 25, fill="#e1e6ec", width=0)
            self.chart.create_rectangle(0, top + 15, 250 * share, top + 25, fill=BEST if name == best else BAR, width=0)

    def _show(self, status: str, reason: str, label: str | None, command: Callable[[], None] | None = None) -> None:
        """Show a text, and a button; or none."""
        self.bar.stop()
        self.bar.configure(mode="determinate", value=0)
        self.bar.grid()
        self.status.configure(text=status)
        # What OpenVINO said is for a log.
        self.reason.configure(text=textwrap.shorten(reason.partition("OpenVINO said:")[0], 300, placeholder=" …"))
        self.button.configure(text=label or "")
        if command is None:
            self.button.pack_forget()
        else:
            self.button.configure(command=command)
            self.button.pack(side="right")

    def _show_busy(self) -> None:
        self.bar.configure(mode="indeterminate")
        self.bar.start()

    def _show_progress(self, event: npup.Progress) -> None:
        doing = STAGES.get(event.stage, event.stage)
        if event.fraction is not None and event.unit == "bytes":
            self.bar.stop()
            self.bar.configure(mode="determinate", value=100 * event.fraction)
            doing += f": {event.done / 1e6:.1f} of {(event.total or 0) / 1e6:.1f} MB"
        elif str(self.bar["mode"]) == "determinate":
            self._show_busy()
        self.status.configure(text=f"{doing}, {event.seconds:.0f} s")
        self.reason.configure(text=event.detail)


def make_segments(strokes: Strokes, count: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return so many short lines along the strokes, (1, count, 4), for each x and y of both ends."""
    drawn = [np.array(stroke, np.float32) for stroke in strokes if len(stroke) > 1]
    lengths = np.array([max(np.hypot(*np.diff(stroke, axis=0).T).sum(), 1e-3) for stroke in drawn])
    shares = np.maximum(np.floor(count * lengths / lengths.sum()), 1).astype(int)
    parts = []
    for stroke, share in zip(drawn, shares, strict=True):
        way = np.concatenate([[0.0], np.hypot(*np.diff(stroke, axis=0).T).cumsum()])
        at = np.linspace(0, way[-1], share + 1)
        points = np.stack([np.interp(at, way, axis) for axis in stroke.T], axis=1)
        parts.append(np.concatenate([points[:-1], points[1:]], axis=1))
    segments = np.concatenate(parts)[:count]
    rest = np.repeat(segments[-1:], count - len(segments), axis=0)
    return np.concatenate([segments, rest]).astype(np.float32)[None]


def make_drawings() -> dict[str, Strokes]:
    """Return what `--demo` draws: for each shape strokes, in pixels of the canvas."""

    def around(corners: int, skip: int = 1, turn: float = 0.0) -> list[tuple[float, float]]:
        angles = turn + 2 * np.pi * skip / corners * np.arange(corners + 1)
        return [(SIDE * (0.5 + 0.36 * np.sin(angle)), SIDE * (0.52 - 0.36 * np.cos(angle))) for angle in angles]

    low, middle, high = SIDE * 0.15, SIDE * 0.5, SIDE * 0.85
    return {
        "circle": [around(36)],
        "triangle": [around(3)],
        "square": [around(4, turn=np.pi / 4)],
        "star": [around(5, skip=2)],
        "cross": [[(low, middle), (high, middle)], [(middle, low), (middle, high)]],
    }


def wait_until(window: Window, condition: Callable[[], bool], seconds: float = 120) -> None:
    """Run the window until a condition holds; TimeoutError if it does not."""
    ended = threading.Event()
    timer = threading.Timer(seconds, ended.set)
    timer.start()
    try:
        while not condition():
            if ended.wait(0.01):
                raise TimeoutError(f"not after {seconds:.0f} s; the window says: {window.status['text']}")
            window.root.update()
    finally:
        timer.cancel()


def draw(window: Window, strokes: Strokes) -> None:
    """Draw with the mouse."""
    window.root.update()  # a window that is not there yet gets no events
    for stroke in strokes:
        for number, ((x, y), (to_x, to_y)) in enumerate(pairwise(stroke)):
            if number == 0:
                window.canvas.event_generate("<Button-1>", x=round(x), y=round(y))
            for part in np.linspace(0, 1, 9)[1:]:
                place = {"x": round(x + part * (to_x - x)), "y": round(y + part * (to_y - y))}
                window.canvas.event_generate("<B1-Motion>", **place)
                window.root.update()


def demonstrate(window: Window) -> None:
    """Draw each shape, and check what the window recognizes."""
    wait_until(window, lambda: window.model is not None or "not" in str(window.status["text"]))
    print(window.status["text"], window.reason["text"])
    assert window.model is not None, "the model should load"
    for name, strokes in make_drawings().items():
        window.clear()
        draw(window, strokes)
        wait_until(window, lambda: window.is_settled)
        found = max(window.answers, key=window.answers.__getitem__)
        print(f"{name}: {found}, {window.answers[found]:.1%}")
        assert found == name
        assert window.answers[found] > ENOUGH


def main() -> None:
    """Open the window."""
    npup.freeze_support()  # a frozen program's worker processes end here
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", default="shapes", help="the bundle; hf://your-name/shapes is pulled first")
    parser.add_argument("--device", default="NPU", help="NPU, GPU, CPU or AUTO; GPU and CPU are fallbacks")
    parser.add_argument("--store", metavar="DIR", help="where bundles are kept; without it, the default store")
    parser.add_argument("--demo", action="store_true", help="draw each shape, check the answers, and close")
    options = parser.parse_args()

    fallback = tuple(device for device in ("GPU", "CPU") if device != options.device)
    window = Window(options.reference, options.device, fallback=fallback, store=options.store)
    if options.demo:
        demonstrate(window)
        window.close()
    else:
        window.root.mainloop()


if __name__ == "__main__":
    main()
