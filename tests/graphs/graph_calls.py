"""Calls on small GraphDefs, made in children."""

from __future__ import annotations

from typing import Any

from tasks.graphs import graph as graphs
from tasks.graphs.graph import CALLS, Body, Cone, Graph


def ops_that_pass_their_inputs_on() -> dict[str, str]:
    """For each op in CALLS that TensorFlow registers, how its entry differs from the op's definition."""
    from tensorflow.python.framework import op_def_registry

    wrong = {}
    for op, spec in CALLS.items():
        definition = op_def_registry.get(op)
        if definition is None:
            continue
        named = tuple(one.name for one in definition.attr if one.type in ("func", "list(func)"))
        lists = [bool(one.number_attr or one.type_list_attr) for one in definition.input_arg]
        if spec.attributes != named or lists != [False] * spec.first + [True]:
            wrong[op] = f"{named} after {lists}"
    return wrong


def functions_found(attributes: dict[str, list[str]]) -> dict[str, list[str]]:
    """The functions that a node with these attributes names, by op: for every op that has an attribute for one."""
    from tensorflow.core.framework import op_def_pb2
    from tensorflow.python.client import pywrap_tf_session as session

    found = {}
    ops = op_def_pb2.OpList.FromString(session.TF_GetBuffer(session.TF_GetAllOpList()))
    for definition in ops.op:
        taking = [one for one in definition.attr if one.type in ("func", "list(func)")]
        if taking:
            made = _graph_with_functions(attributes["functions"])
            node = made.node.add(name="caller", op=definition.name)
            for one, name in zip(taking, attributes["functions"], strict=False):
                if one.type == "func":
                    node.attr[one.name].func.name = name
                else:
                    node.attr[one.name].list.func.add(name=name)
            found[definition.name] = sorted(Graph(made).called(made.node))[: len(taking)]
    return found


def _graph_with_functions(names: list[str]) -> Any:
    from tensorflow.core.framework import graph_pb2

    made = graph_pb2.GraphDef()
    for name in names:
        made.library.function.add().signature.name = name
    return made


def walked(edges: list[list[int]], targets: list[int], fed: list[int]) -> dict[str, list[str]]:
    """Reach, order and readers of a graph whose node `n3` reads the nodes of `edges[3]`."""
    from tensorflow.core.framework import graph_pb2

    made = graph_pb2.GraphDef()
    for number, sources in enumerate(edges):
        made.node.add(name=f"n{number}", op="AddN", input=[f"n{source}" for source in sources])
    graph = Graph(made)
    cone = Cone(graph, [f"n{target}:0" for target in targets], [f"n{one}" for one in fed])
    readers = Body(list(made.node)).readers
    return {
        "reach": sorted(graph.reach([f"n{target}" for target in targets])),
        "order": cone.order,
        "all": graphs.in_order(graph.nodes),
        "readers": [f"{read.node.name}:{read.position}<{name}" for name, reads in readers.items() for read in reads],
    }


def walked_all(cases: list[tuple[list[list[int]], list[int], list[int]]]) -> list[dict[str, list[str]]]:
    """`walked` of every case."""
    return [walked(*case) for case in cases]
