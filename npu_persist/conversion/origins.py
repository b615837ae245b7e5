"""Where a graph's constants come from: what of them `refresh` may replace by a module's new weights.

A tensor of the module may be replaced where each use of it in the traced program is still a use of its own memory in
the finished graph, or of rows of it. A tensor of which a use is missing was folded into something, or left out because
of its values (a bias of zeros, a scale of ones): `refresh` demands that it is as it was. What of the program does not
come from tensors of the module is in the program's digest.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from msgspec.structs import replace

from npu_persist.bundle.manifest import Refresh, Rows
from npu_persist.conversion.dependence import inputs_by_node
from npu_persist.conversion.rewrites.small_constants import read_scalar
from npu_persist.files.digest import Hasher

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import openvino as ov

_Memory: TypeAlias = "tuple[int, int]"
"""Address and size in bytes."""
Origin: TypeAlias = "str | Rows | None"
"""What a constant holds: the tensor of that name, or of its names the first; rows of one; or something else."""

OWN = "constant."
"""Begins the names of constants that are no tensor of the module."""
_FLOATS = frozenset({torch.float16, torch.float32})
_MOST_ROWS = 1 << 17
"""Tables with more rows are not searched."""


def tensors_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the parameters and buffers of a module, each under all of its names."""
    named = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    return {name: tensor.detach() for name, tensor in named}


def describe_dtype(tensor: torch.Tensor) -> str:
    """Return a tensor's dtype as the manifest has it: `float32`."""
    return str(tensor.dtype).removeprefix("torch.")


def describe_dtypes(tensors: Mapping[str, torch.Tensor]) -> Refresh:
    """Return what the manifest says where it is not known where constants come from."""
    dtypes = {name: describe_dtype(tensor) for name, tensor in tensors.items()}
    most = Counter(dtypes.values()).most_common(1)
    common = most[0][0] if most else "float32"
    return Refresh(None, common, {name: dtype for name, dtype in dtypes.items() if dtype != common}, {}, {})


def digest_tensor(tensor: torch.Tensor) -> str:
    """Return the digest of a tensor's dtype, shape and values."""
    hasher = Hasher()
    hasher.update(f"{describe_dtype(tensor)}{list(tensor.shape)}".encode())
    tensor = tensor.dequantize() if tensor.is_quantized else tensor.to_dense()
    if tensor.numel():
        hasher.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return hasher.digest()


def digest_program(program: torch.jit.ScriptModule) -> str:
    """Return the digest of what a traced program computes: all of it but the values of the module's tensors."""
    hasher = Hasher()
    numbers: defaultdict[str, int] = defaultdict(lambda: len(numbers))

    def add(block: Any) -> None:
        for value in block.inputs():
            hasher.update(f"{numbers[value.debugName()]}:{_describe_type(value.type())};".encode())
        for node in block.nodes():
            given = [numbers[value.debugName()] for value in node.inputs()]
            made = [(numbers[value.debugName()], _describe_type(value.type())) for value in node.outputs()]
            called = node.pyname() if node.kind() == "prim::PythonOp" else ""
            hasher.update(f"{node.kind()}{called}{given}{made}".encode())
            for name in sorted(node.attributeNames()):
                kind = node.kindOf(name)
                value = getattr(node, kind)(name)
                parts = {"t": [value], "ts": value}.get(kind)
                text = str(value) if parts is None else " ".join(map(digest_tensor, parts))
                hasher.update(f"{name}={kind}:{text};".encode())
            for inner in node.blocks():
                hasher.update(b"{")
                add(inner)
                hasher.update(b"}")
        hasher.update(f"return {[numbers[value.debugName()] for value in block.outputs()]}".encode())

    add(program.inlined_graph)
    return hasher.digest()


def _describe_type(kind: Any) -> str:
    return f"{kind.dtype()}{kind.sizes()}" if kind.kind() == "TensorType" else str(kind.kind())


class Origins:
    """Follows the tensors of a module through the conversion of its trace, by memory.

    `start` is called with what the frontend gave, `find` with the finished graph, and `describe` at last.
    """

    def __init__(self, module: torch.nn.Module, program: torch.jit.ScriptModule) -> None:
        self._program = program
        self._tensors = tensors_of(module)
        self._names: dict[_Memory, list[str]] = defaultdict(list)
        for name, tensor in self._tensors.items():
            if tensor.layout is torch.strided and tensor.numel():
                self._names[tensor.data_ptr(), tensor.nbytes].append(name)
        self._started: Counter[_Memory] = Counter()
        self._gathered: Counter[_Memory] = Counter()
        self._scales: dict[_Memory, set[float]] = defaultdict(set)
        self._unchanged: set[_Memory] = set()
        self._unused: set[_Memory] = set()

    def start(self, model: ov.Model) -> None:
        """Count the uses of each tensor, and note those that OpenVINO or `constant_folding` computes in a known way."""
        depends_on = inputs_by_node(model)
        for operation in model.get_ordered_ops():
            place = self._place(operation)
            if place is None:
                continue
            for port in operation.output(0).get_target_inputs():
                user = port.get_node()
                if user.get_type_name() == "ShapeOf":
                    continue
                self._started[place] += 1
                if depends_on[user.get_name()]:
                    self._scales[place] |= _find_scale(user)
                else:
                    self._gathered[place] += _takes_rows(user, port.get_index(), depends_on)

    def find(self, model: ov.Model) -> dict[str, Origin]:
        """Return what the constants of the finished graph hold, by friendly name."""
        found: dict[str, Origin] = {}
        left: Counter[_Memory] = Counter()
        own: list[ov.Node] = []
        for operation in model.get_ordered_ops():
            if operation.get_type_name() != "Constant":
                continue
            place = self._place(operation)
            if place is None:
                own.append(operation)
            else:
                users = [user.get_node().get_type_name() for user in operation.output(0).get_target_inputs()]
                left[place] += len(users) - users.count("ShapeOf")
                found[operation.get_friendly_name()] = self._names[place][0]
        used = self._uses()
        self._unused = self._names.keys() - used.keys() - self._started.keys()
        missing = {place: count - left[place] for place, count in self._started.items() if count >= used[place] > 0}
        derived = {
            place: [*self._find_rows(place, own), *self._find_scaled(place, own)]
            for place, count in missing.items()
            if count > 0
        }
        claimed = Counter(name for pairs in derived.values() for name, _ in pairs)
        for place, count in missing.items():
            pairs = derived.get(place, [])
            if count == len(pairs) >= self._gathered[place] and all(claimed[name] == 1 for name, _ in pairs):
                self._unchanged.add(place)
                found |= pairs
        return found

    def describe(self, stored: Mapping[str, Sequence[Origin]], aliases: Mapping[str, str]) -> Refresh:
        """Return what the manifest says.

        Args:
            stored: What the layers that read each tensor of the weights file hold.
            aliases: Other names of the module's, and the tensor of the file that holds them.
        """
        rows: dict[str, Rows] = {}
        replaced: set[str] = set()
        for name, origins in stored.items():
            if len({str(origin) for origin in origins}) > 1 or not origins:
                continue  # equal tensors that became one
            origin = origins[0]
            if isinstance(origin, Rows):
                rows[name] = origin
            elif origin is not None and name in self._names[self._memory(origin)] and not name.startswith(OWN):
                replaced.add(name)
        kept = {name: target for name, target in aliases.items() if target in replaced}
        followed = {self._memory(name) for name in replaced} | {self._memory(origin.of) for origin in rows.values()}
        mixed = {
            self._memory(origin.of if isinstance(origin, Rows) else origin)
            for name, origins in stored.items()
            if name not in replaced and name not in rows
            for origin in origins
            if origin is not None
        }
        fixed = {}
        for name, tensor in self._tensors.items():
            place = self._memory(name)
            if place in self._unused and name not in stored and name not in aliases:
                continue
            is_held = name in replaced or name in kept or (place in followed and (name in rows or name not in stored))
            if place not in self._unchanged or place in mixed or not is_held or (name in aliases and name not in kept):
                fixed[name] = digest_tensor(tensor)
        rows = {name: origin for name, origin in rows.items() if origin.of not in fixed}
        return replace(describe_dtypes(self._tensors), program=digest_program(self._program), fixed=fixed, rows=rows)

    def _memory(self, name: str) -> _Memory:
        tensor = self._tensors[name]
        if tensor.layout is not torch.strided:  # which no constant shows
            return id(tensor), -1
        return tensor.data_ptr(), tensor.nbytes

    def _place(self, operation: Any) -> _Memory | None:
        """Return which tensor's memory a constant shows."""
        if operation.get_type_name() != "Constant":
            return None
        place = int(operation.data.ctypes.data), int(operation.get_byte_size())
        return place if place in self._names else None

    def _uses(self) -> Counter[_Memory]:
        """Count the uses of each tensor in the program."""
        used: Counter[_Memory] = Counter()
        paths: dict[str, str] = {}
        for node in _nodes(self._program.inlined_graph):
            if node.kind() == "prim::GetAttr":
                path = f"{paths.get(node.inputsAt(0).debugName(), '')}.{node.s('name')}"
                paths[node.output().debugName()] = path
                name = path.removeprefix(".").removeprefix("module.")
                if name in self._tensors and (count := len(node.output().uses())):
                    used[self._memory(name)] += count
        return used

    def _find_rows(self, place: _Memory, own: Iterable[ov.Node]) -> Iterator[tuple[str, Rows]]:
        """Yield the constants that are rows of a table, all of whose rows differ."""
        name = self._names[place][0]
        table = self._tensors[name]
        if not self._gathered[place] or table.dtype not in _FLOATS or len(table) > _MOST_ROWS:
            return
        lines = table.contiguous().numpy().reshape(len(table), -1)
        positions = {line.tobytes(): index for index, line in enumerate(lines)}
        if len(positions) < len(lines):
            return
        for operation in own:
            data: Any = operation.data
            if data.dtype != lines.dtype or not data.size or data.shape[1 - table.ndim :] != tuple(table.shape[1:]):
                continue
            taken = [positions.get(line.tobytes(), -1) for line in data.reshape(-1, lines.shape[1])]
            steps = set(np.diff(taken).tolist()) or {0}
            if -1 not in taken and len(steps) == 1 and (step := steps.pop()) >= 0:
                yield operation.get_friendly_name(), Rows(name, taken[0], len(taken), step)

    def _find_scaled(self, place: _Memory, own: Iterable[ov.Node]) -> Iterator[tuple[str, Rows]]:
        """Yield the constants that are a tensor, multiplied by a number."""
        name = self._names[place][0]
        tensor = self._tensors[name]
        if not self._scales[place] or tensor.dtype not in _FLOATS or not tensor.ndim:
            return
        values = tensor.contiguous().numpy().ravel()
        if (values == values[0]).all():  # could be anything
            return
        for scale in self._scales[place]:
            wanted = values * values.dtype.type(scale)
            for operation in own:
                data: Any = operation.data
                if data.dtype == wanted.dtype and data.size == wanted.size and np.array_equal(data.ravel(), wanted):
                    yield operation.get_friendly_name(), Rows(name, 0, len(tensor), 1, scale)


def _find_scale(user: ov.Node) -> set[float]:
    """Return the number that a sum is multiplied by, which OpenVINO multiplies what is added by instead."""
    readers = [reader.get_node() for output in user.outputs() for reader in output.get_target_inputs()]
    if user.get_type_name() != "Add" or len(readers) != 1 or readers[0].get_type_name() != "Multiply":
        return set()
    return {
        scale for source in readers[0].input_values() if (scale := read_scalar(source.get_node())) not in {None, 0.0}
    }


def _takes_rows(user: ov.Node, index: int, depends_on: Mapping[str, int]) -> bool:
    """Return whether a constant looks up rows, which only then meet what depends on an input."""
    if user.get_type_name() != "Gather" or index != 0 or read_scalar(user.input_value(2).get_node()) != 0.0:
        return False
    readers = [user]
    while len(readers) == 1 and not depends_on[readers[0].get_name()]:
        node = readers[0]
        if node is not user and not (
            node.get_type_name() == "Multiply" and 1.0 in {read_scalar(one.get_node()) for one in node.input_values()}
        ):
            return False
        readers = [reader.get_node() for output in node.outputs() for reader in output.get_target_inputs()]
    return all(depends_on[reader.get_name()] for reader in readers)


def _nodes(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)
