"""Puts what counts a chat template's work into its syntax tree, where Jinja's sandbox has no hook of its own."""

from __future__ import annotations

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

# Attributes of the environment's allowance that the compiled template calls, by the names under which `metered` names
# them. `turn(cost)` takes from the allowance and is true; the others give back what they are given.
TURN, PAID, SHOWN, WEIGHED = "turn", "paid", "shown", "weighed"


def metered(template: nodes.Template) -> nodes.Template:
    """The same template, which counts loop turns and calls, and weighs the lists and texts that it makes."""
    environment = template.environment
    _Meter().generic_visit(template)
    if environment is not None:  # always so; new nodes take it from here
        template.set_environment(environment)
    return template


def _call(name: str, argument: nodes.Expr, line: int) -> nodes.Expr:
    function = nodes.EnvironmentAttribute(f"allowance.{name}")
    call = nodes.Call(function, [argument], [], None, None)
    call.set_lineno(line)
    return call


def _given(name: str, argument: nodes.Expr) -> nodes.Expr:
    """`argument`, passed through a meter; a constant that stands in the template needs none."""
    return argument if isinstance(argument, nodes.Const) else _call(name, argument, argument.lineno)


def _turn(body: list[nodes.Node], line: int) -> nodes.Expr:
    """One turn of a loop or call: costs more where much text stands in it."""
    texts = (data for node in body for data in (node, *node.find_all(nodes.TemplateData)))
    length = sum(len(data.data) for data in texts if isinstance(data, nodes.TemplateData))
    return _call(TURN, nodes.Const(1 + length // 16), line)


class _Meter(NodeTransformer):
    """Visits children first, then wraps."""

    def _with_turn(self, node: nodes.Node) -> nodes.Node:
        node = self.generic_visit(node)
        turn = _turn(node.body, node.lineno)  # type: ignore[attr-defined]
        node.body = [nodes.ExprStmt(turn).set_lineno(node.lineno), *node.body]  # type: ignore[attr-defined]
        return node

    def visit_For(self, node: nodes.For) -> nodes.Node:
        """Counts every turn, and every item that a condition looks at."""
        self._with_turn(node)
        if node.test is not None:
            node.test = nodes.And(_call(TURN, nodes.Const(1), node.lineno), node.test).set_lineno(node.lineno)
        return node

    visit_Macro = visit_CallBlock = visit_Block = _with_turn

    def _weighed(self, node: nodes.Expr) -> nodes.Node:
        self.generic_visit(node)
        if getattr(node, "ctx", "load") != "load":  # a target of an assignment
            return node
        return _call(WEIGHED, node, node.lineno)

    visit_List = visit_Tuple = visit_Dict = _weighed

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        """A slice copies."""
        self.generic_visit(node)
        return _call(WEIGHED, node, node.lineno) if isinstance(node.arg, nodes.Slice) else node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        """`~` writes values as texts."""
        self.generic_visit(node)
        node.nodes = [_given(SHOWN, part) for part in node.nodes]
        return _call(WEIGHED, node, node.lineno)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        """Comparisons and `in` walk through values."""
        self.generic_visit(node)
        node.expr = _given(PAID, node.expr)
        for operand in node.ops:
            operand.expr = _given(PAID, operand.expr)
        return node
