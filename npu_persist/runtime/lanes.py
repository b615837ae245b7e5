"""Lanes: an inference request with memory for its inputs, and with its state if the graph has one."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from npu_persist.bundle.buckets import open_axes, read_sizes
from npu_persist.bundle.graph_records import allows
from npu_persist.bundle.signature import describe_shape, describe_values, find_root, size_of
from npu_persist.bundle.states import first_shape, grow
from npu_persist.errors import GraphIntegrityError, InputError, StateCapacityError, StateError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import openvino as ov

    from npu_persist.bundle.graph_records import Port, State
    from npu_persist.runtime.inputs import Array

LENT = 1 << 19
"""Bytes from which an input is read where it is: below that, a copy is faster than lending it and taking it back."""

_OF_NPUW = {"npuw_stored_tokens_state"}
"""All that NPUW shows of a conversation. To reset it does not begin another one."""


class Lane:
    """One inference request, and its inputs' own memory."""

    def __init__(self, compiled: ov.CompiledModel, is_static: Sequence[bool]) -> None:
        import openvino as ov

        # OpenVINO's native class: the Python class over it sorts out inputs of many kinds, which doubles a call's cost.
        native: Any = super(ov.CompiledModel, compiled)
        self.request = native.create_infer_request()
        self.share = ov.Tensor
        self.own = [self.request.get_input_tensor(index) for index in range(len(is_static))]
        self.views = [tensor.data if fixed else None for tensor, fixed in zip(self.own, is_static, strict=True)]

    def reset(self) -> None:
        """Give the state its first value."""
        self.request.reset_state()

    def run(self, arrays: Sequence[Array], limit: float, share_outputs: bool) -> list[Array]:  # noqa: FBT001 - hot
        """Run one inference; an input of `limit` bytes or more is read where it is, where that is possible."""
        request = self.request
        lent = []
        try:
            for index, (view, array) in enumerate(zip(self.views, arrays, strict=True)):
                if view is None:
                    own = self.own[index]
                    own.shape = array.shape  # which may move its memory
                    own.data[...] = array
                    # Set each time: the CPU plugin copies a dynamic input that was not set to where the input of the
                    # last request was that was: another thread's, or an array that is gone. For the same reason no
                    # array of the caller is lent to a dynamic input.
                    request.set_input_tensor(index, own)
                elif array.nbytes < limit or not _is_lendable(array.flags):
                    view[...] = array
                else:
                    request.set_input_tensor(index, self.share(array, shared_memory=True))
                    lent.append(index)
            # Not start_async and wait: the detour over a thread of the device costs three times a small inference.
            return list(request.infer({}, share_outputs, False).values())  # noqa: FBT003 - decode_strings
        finally:
            for index in lent:
                request.set_input_tensor(index, self.own[index])


class NewLane(Lane):
    """A lane whose first inference is timed."""

    def __init__(
        self, compiled: ov.CompiledModel, is_static: Sequence[bool], on_first: Callable[[float], None]
    ) -> None:
        super().__init__(compiled, is_static)
        self._on_first = on_first

    def run(self, arrays: Sequence[Array], limit: float, share_outputs: bool) -> list[Array]:  # noqa: FBT001
        """Run one inference; the next is one of a plain lane."""
        start = time.perf_counter()
        outputs = super().run(arrays, limit, share_outputs)
        seconds = time.perf_counter() - start
        self.__class__ = Lane  # type: ignore[assignment]  # so that nothing of this is left in later calls
        self._on_first(seconds)
        return outputs


class Turns:
    """Whose conversation NPUW's decoder of speech continues: it counts tokens for all requests of a model together."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0

    def begin(self) -> int:
        """Return the number of a new conversation, which ends all others."""
        self.count += 1
        return self.count


class StatefulLane(NewLane):
    """A lane of a graph with states: follows their sizes, and refuses a call that does not fit them before it runs."""

    def __init__(  # noqa: PLR0913, PLR0917 - what it follows
        self,
        compiled: ov.CompiledModel,
        is_static: Sequence[bool],
        on_first: Callable[[float], None],
        states: Sequence[State],
        inputs: Sequence[Port],
        reference: str,
    ) -> None:
        super().__init__(compiled, is_static, on_first)
        self._is_static = is_static
        self._states = states
        self._inputs = inputs
        self._reference = reference
        self._variables = {found.name: found for found in self.request.query_state()}
        if not self._variables:
            raise GraphIntegrityError(
                f"{reference}: the manifest says that the graph has the states "
                f"{', '.join(state.name for state in states)}; the compiled model has none. Persist the model "
                "again, or "
                "get another copy of the bundle"
            )
        self._is_first_run = True
        self._roots = {found.root for port in inputs for found in open_axes(port)}
        self._follows = any(None in state.first for state in states)
        self._indices = [state for state in states if state.bounds is not None]
        self._is_open = bool(self._roots) or any(state.growth for state in states)
        self._begin()

    def _begin(self) -> None:
        self.is_new = True
        self._is_broken = False
        self._followed: dict[str, int] = {}
        self._lengths: dict[str, int] = {}
        for state in self._states:
            if state.growth is not None:
                self._lengths[state.name] = state.first[state.growth.axis] or 0

    def reset(self) -> None:
        """Give the state its first value."""
        super().reset()
        self._begin()

    @property
    def is_npuw(self) -> bool:
        """Whether NPUW keeps the states, and shows none of them."""
        return self._variables.keys() == _OF_NPUW

    def take_over(self, other: StatefulLane) -> None:
        """Give the state the value that another lane's has."""
        other.require_known()
        self.reset()
        if other.is_new:
            return
        for name, variable in other._variables.items():
            found = variable.state
            self._variables[name].state = type(found)(found.data.copy())
        self.is_new = False
        self._followed, self._lengths = dict(other._followed), dict(other._lengths)

    def require_known(self) -> None:
        """Raise StateError after an inference that failed in its middle."""
        if self._is_broken:
            raise StateError(
                f"{self._reference}: an inference failed or was interrupted, so the state is undefined. reset() it"
            )

    def run(self, arrays: Sequence[Array], limit: float, share_outputs: bool) -> list[Array]:  # noqa: FBT001
        """Run one inference, after which the state is another."""
        self.require_known()
        if self._indices and not self.is_new:
            self._check_indices()
        sizes = self._read_sizes(arrays) if self._is_open else {}
        lengths = self._grow(sizes) if self._lengths else {}
        if self.is_new and self._follows:
            self._set_first(sizes)
        is_done = False
        try:
            if self._is_first_run:
                outputs = self._time(arrays, limit, share_outputs)
            else:
                outputs = Lane.run(self, arrays, limit, share_outputs)
            is_done = True
        finally:
            self._is_broken = not is_done
        self.is_new = False
        self._lengths = lengths
        return outputs

    def _check_indices(self) -> None:
        """Raise StateCapacityError where a state has become an index that points nowhere."""
        for state in self._indices:
            variable, bounds = self._variables.get(state.variable), state.bounds
            if variable is None or bounds is None:
                continue
            values = variable.state.data
            found = int(values.max()) if values.size else 0
            if values.size and not (allows(bounds, found) and allows(bounds, int(values.min()))):
                raise StateCapacityError(
                    f"{self._reference}: the state {state.name} is {values.ravel().tolist()[:8]}, and the model takes "
                    f"{describe_values(bounds)}, since it uses it as an index. reset() it, or persist the module with "
                    "more room",
                    state=state.name,
                    capacity=bounds.high,
                    size=found,
                )

    def _time(self, arrays: Sequence[Array], limit: float, share_outputs: bool) -> list[Array]:  # noqa: FBT001
        start = time.perf_counter()
        outputs = Lane.run(self, arrays, limit, share_outputs)
        self._is_first_run = False
        self._on_first(time.perf_counter() - start)
        return outputs

    def _read_sizes(self, arrays: Sequence[Array]) -> dict[str, int]:
        """Return the size of each symbol; InputError where it is not what the state has."""
        shapes = {port.name: array.shape for port, array in zip(self._inputs, arrays, strict=True)}
        sizes = read_sizes(self._inputs, shapes)
        for state in self._states:
            for axis, size in enumerate(state.shape):
                if isinstance(size, int) or size.name is None:
                    continue
                wanted = self._size_along(state, axis)
                asked = size_of(size.name, sizes) if find_root(size.name, self._roots) is not None else None
                if wanted is not None and asked is not None and asked != wanted:
                    raise InputError(
                        f"{self._reference}: axis {axis} ({size.name}) of the state {state.name} is {wanted}, but "
                        f"the call's inputs require {asked}. Continue with inputs of the same sizes, or reset() the "
                        "state",
                        expected=f"{size.name} = {wanted}",
                        got=f"{asked}",
                    )
        if self.is_new:
            self._followed = dict(sizes)
        return sizes

    def _size_along(self, state: State, axis: int) -> int | None:
        """Return the size that a state has; None where it is not known, or the call decides."""
        if state.growth is not None and state.growth.axis == axis:
            return self._lengths[state.name]
        if state.first[axis] is None and not self.is_new:
            return size_of(getattr(state.shape[axis], "name", None) or "", self._followed)
        return None

    def _grow(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Return the lengths of the states after the call; StateCapacityError where one would be too long."""
        lengths = {}
        for state in self._states:
            if state.growth is None:
                continue
            by, length = grow(state.growth, sizes), self._lengths[state.name]
            lengths[state.name] = length + (by or 0)
            highest = getattr(state.shape[state.growth.axis], "max", None)
            if highest is not None and lengths[state.name] > highest:
                raise StateCapacityError(
                    f"{self._reference}: the state {state.name} holds {length} of at most {highest} along axis "
                    f"{state.growth.axis}, and the call would add {by}. reset() it, or persist the module with a "
                    "larger max of that axis",
                    state=state.name,
                    capacity=highest,
                    size=length,
                )
        return lengths

    def _set_first(self, sizes: Mapping[str, int]) -> None:
        """Give the states that follow the call's sizes their first values at these."""
        for state in self._states:
            if None not in state.first:
                continue
            shape = first_shape(state, sizes)
            variable = self._variables.get(state.variable)
            if shape is None or variable is None:
                raise GraphIntegrityError(
                    f"{self._reference}: the state {state.name}, {describe_shape(state.shape)}, follows no input, or "
                    f"has no variable {state.variable!r} in the compiled model. Persist the model again, or get "
                    "another "
                    "copy of the bundle"
                )
            found = variable.state
            try:
                value = type(found)(found.element_type, shape)  # of the type in which the device keeps it
            except (RuntimeError, MemoryError) as error:
                raise GraphIntegrityError(
                    f"{self._reference}: the state {state.name} of {list(shape)} does not fit into memory: {error}"
                ) from error
            value.data[...] = state.initial or 0
            variable.state = value


class NpuwLane(StatefulLane):
    """A lane of a decoder on an NPU, where NPUW keeps the states: a prompt, and then one token at a time.

    NPUW takes several tokens for a prompt; for one token it does so only in a request's first inference.
    """

    def __init__(self, lane: StatefulLane, compiled: ov.CompiledModel, turns: Turns) -> None:
        self.__dict__.update(lane.__dict__)
        self._compiled = compiled
        self._turns = turns
        self._turn = 0
        names = [port.name for port in self._inputs]
        self._tokens = names.index("input_ids")
        self._is_speech = "encoder_hidden_states" in names

    def reset(self) -> None:
        """Begin a conversation, in a new request."""
        Lane.__init__(self, self._compiled, self._is_static)
        self._begin()

    def take_over(self, other: StatefulLane) -> None:  # noqa: ARG002
        """Refuse: NPUW gives no state away."""
        raise UsageError(f"{self._reference}: an NPU keeps the state of a conversation, so it cannot be copied")

    def run(self, arrays: Sequence[Array], limit: float, share_outputs: bool) -> list[Array]:  # noqa: FBT001
        """Run one inference: the prompt's, or one token's."""
        tokens = arrays[self._tokens].shape[1]
        if tokens < 1 or (tokens > 1 and not self.is_new):
            raise InputError(
                f"{self._reference}: after a prompt, an NPU takes one token at a time; got {tokens}. To begin another "
                "conversation, reset() this one",
                expected="1 token",
                got=f"{tokens} tokens",
            )
        if not self._is_speech:
            return super().run(arrays, limit, share_outputs)
        with self._turns.lock:
            if self.is_new:
                if tokens == 1 and self._turns.count:
                    self._forget(arrays)
                self._turn = self._turns.begin()
            elif self._turn != self._turns.count:
                raise StateError(
                    f"{self._reference}: an NPU keeps one conversation of a decoder of speech, and another one has "
                    "begun. reset() this one, or load the model once more"
                )
            return super().run(arrays, limit, share_outputs)

    def _forget(self, arrays: Sequence[Array]) -> None:
        """Read a prompt without tokens, after which NPUW takes a single one for a prompt."""
        empty = [array[:, :0] if index == self._tokens else array for index, array in enumerate(arrays)]
        Lane.run(self, empty, LENT, False)  # noqa: FBT003

    def _set_first(self, sizes: Mapping[str, int]) -> None:
        """Leave the first values to NPUW."""


def _is_lendable(flags: Any) -> bool:
    return bool(flags.c_contiguous and flags.writeable and flags.aligned)
