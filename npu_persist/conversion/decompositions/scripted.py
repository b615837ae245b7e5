"""Operations that OpenVINO lacks in scripted code, which no tracer sees: rewritten in the program's graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

_ARGUMENTS = "%x, %hx, %w_ih, %w_hh, %b_ih, %b_hh"
_LINEAR = """
  %enter : Tensor = aten::linear(%x, %w_ih, %b_ih)
  %back : Tensor = aten::linear({hidden}, %w_hh, %b_hh)
  %one : int = prim::Constant[value=1]()"""
_LSTM = f"""graph({_ARGUMENTS}):
  %hidden : Tensor, %cell : Tensor = prim::ListUnpack(%hx){_LINEAR.format(hidden="%hidden")}
  %count : int = prim::Constant[value=4]()
  %sum : Tensor = aten::add(%enter, %back, %one)
  %parts : Tensor[] = aten::chunk(%sum, %count, %one)
  %a : Tensor, %b : Tensor, %c : Tensor, %d : Tensor = prim::ListUnpack(%parts)
  %into : Tensor = aten::sigmoid(%a)
  %keep : Tensor = aten::sigmoid(%b)
  %new : Tensor = aten::tanh(%c)
  %out : Tensor = aten::sigmoid(%d)
  %kept : Tensor = aten::mul(%keep, %cell)
  %added : Tensor = aten::mul(%into, %new)
  %next : Tensor = aten::add(%kept, %added, %one)
  %squashed : Tensor = aten::tanh(%next)
  %answer : Tensor = aten::mul(%out, %squashed)
  return (%answer, %next)"""
_GRU = f"""graph({_ARGUMENTS}):{_LINEAR.format(hidden="%hx")}
  %count : int = prim::Constant[value=3]()
  %enters : Tensor[] = aten::chunk(%enter, %count, %one)
  %backs : Tensor[] = aten::chunk(%back, %count, %one)
  %a : Tensor, %b : Tensor, %c : Tensor = prim::ListUnpack(%enters)
  %d : Tensor, %e : Tensor, %f : Tensor = prim::ListUnpack(%backs)
  %ad : Tensor = aten::add(%a, %d, %one)
  %be : Tensor = aten::add(%b, %e, %one)
  %reset : Tensor = aten::sigmoid(%ad)
  %update : Tensor = aten::sigmoid(%be)
  %rf : Tensor = aten::mul(%reset, %f)
  %crf : Tensor = aten::add(%c, %rf, %one)
  %new : Tensor = aten::tanh(%crf)
  %change : Tensor = aten::sub(%hx, %new, %one)
  %changed : Tensor = aten::mul(%update, %change)
  %answer : Tensor = aten::add(%new, %changed, %one)
  return (%answer)"""
_RNN = f"""graph({_ARGUMENTS}):{_LINEAR.format(hidden="%hx")}
  %sum : Tensor = aten::add(%enter, %back, %one)
  %answer : Tensor = aten::{{function}}(%sum)
  return (%answer)"""

_CELLS = {
    "aten::lstm_cell": ("%h, %c", _LSTM),
    "aten::gru_cell": ("%h", _GRU),
    "aten::rnn_tanh_cell": ("%h", _RNN.format(function="tanh")),
    "aten::rnn_relu_cell": ("%h", _RNN.format(function="relu")),
}
"""By operation: names of its results, and what it is in other operations."""


def write_out_cells(program: torch.jit.ScriptModule, tensors: tuple[torch.Tensor, ...]) -> torch.jit.ScriptModule:
    """Return the program with the steps of recurrent networks written out, where scripted code has any.

    Its branches on the example's ranks and flags are folded, as a trace folds them.
    """
    kinds = {node.kind() for node in _nodes(program.inlined_graph)} & _CELLS.keys()
    if not kinds:
        return program
    frozen: torch.jit.ScriptModule = torch.jit.freeze(program)  # a graph that can be changed, its branches folded
    for kind in kinds:
        results, replacement = _CELLS[kind]
        pattern = f"graph({_ARGUMENTS}):\n  {results} = {kind}({_ARGUMENTS})\n  return ({results})"
        torch._C._jit_pass_custom_pattern_based_rewrite_graph(pattern, replacement, frozen.graph)
    graph = frozen.graph
    torch._C._jit_pass_lower_all_tuples(graph)
    inputs = [torch._C.TensorType.create_from_tensor(tensor) for tensor in tensors]
    for value, type_ in zip(list(graph.inputs())[1:], inputs, strict=True):
        value.setType(type_)
    for _ in range(2):
        torch._C._jit_pass_propagate_shapes_on_graph(graph)
        torch._C._jit_pass_peephole(graph)
        torch._C._jit_pass_constant_propagation(graph)
    torch._C._jit_pass_lower_all_tuples(graph)
    torch._C._jit_pass_dce(graph)
    return frozen


def _nodes(block: torch.Graph | torch.Block) -> Iterator[torch.Node]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)
