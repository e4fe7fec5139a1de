"""Mutants of a function: each is its source with one small thing changed, as a slip would."""

import ast
import copy
import inspect
import textwrap
import warnings

import numpy as np
import torch

SWAPS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
}  # fmt: skip
OTHER_WAY = {
    ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE, ast.Eq: ast.NotEq,
}  # fmt: skip
NAMES = (
    ("mean", "sum"), ("sum", "mean"), ("max", "min"), ("min", "max"), ("argmax", "argmin"),
    ("amin", "amax"), ("std", "var"), ("sin", "cos"), ("cos", "sin"), ("cumprod", "cumsum"),
    ("zeros_like", "ones_like"), ("ones_like", "zeros_like"), ("minimum", "maximum"),
)  # fmt: skip


def parsed(text):
    return ast.parse(text, mode="eval").body


def constants(node):
    if type(node.value) is bool:
        yield "a flag", ast.Constant(not node.value)
    elif type(node.value) is int:
        yield "a constant", ast.Constant(node.value + 1)
        yield "a constant", ast.Constant(node.value - 1)
    elif type(node.value) is float:
        yield "a constant", ast.Constant(1.1 * node.value or 1.0)


def operators(node):
    if type(node.op) in SWAPS:
        yield "an operator", ast.BinOp(node.left, SWAPS[type(node.op)](), node.right)
    yield "a term", node.left
    yield "a term", node.right


def comparisons(node):
    for table in (SWAPS, OTHER_WAY):
        if len(node.ops) == 1 and type(node.ops[0]) in table:
            op = table[type(node.ops[0])]()
            yield "a comparison", ast.Compare(node.left, [op], node.comparators)


def conditions(node):
    yield "a condition", ast.BoolOp(SWAPS[type(node.op)](), node.values)
    yield from (("a condition", value) for value in node.values)


def slices(node):
    lower = f"{ast.unparse(node.lower)} + 1" if node.lower else "1"
    upper = f"{ast.unparse(node.upper)} - 1" if node.upper else "-1"
    yield "a slice", ast.Slice(parsed(lower), node.upper)
    yield "a slice", ast.Slice(node.lower, parsed(upper))
    yield "a slice", ast.Slice()


def calls(node):
    """With another name, without a keyword, one step less, or not made at all."""
    if isinstance(node.func, ast.Attribute):
        for old, new in NAMES:
            if node.func.attr == old:
                func = ast.Attribute(node.func.value, new, ast.Load())
                yield "a name", ast.Call(func, node.args, node.keywords)
        if ast.unparse(node.func.value) not in ("np", "torch", "math", "torch.special"):
            yield "a call", node.func.value
    if node.args and not isinstance(node.args[0], ast.Starred):
        yield "a call", node.args[0]
    for i in range(len(node.keywords)):
        kept = node.keywords[:i] + node.keywords[i + 1 :]
        yield "an argument", ast.Call(node.func, node.args, kept)
    text = ast.unparse(node)
    if text.startswith("range("):
        yield "a range", parsed(f"{text}[1:]")
        yield "a range", parsed(f"{text}[:-1]")


def statements(node):
    if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
        yield "a statement", ast.Pass()


def tuples(node):
    if isinstance(node.ctx, ast.Load) and len(node.elts) > 1:
        yield "an order", ast.Tuple([*node.elts[1:], node.elts[0]], ast.Load())


CHANGES = {
    ast.Constant: constants,
    ast.BinOp: operators,
    ast.UnaryOp: lambda node: [("a sign", node.operand)],
    ast.Compare: comparisons,
    ast.BoolOp: conditions,
    ast.IfExp: lambda node: [("a branch", node.body), ("a branch", node.orelse)],
    ast.Slice: slices,
    ast.Call: calls,
    ast.Tuple: tuples,
    **dict.fromkeys((ast.Assign, ast.AugAssign, ast.Expr, ast.If, ast.Break, ast.For), statements),
}


def others(node, parameters):
    """(what was changed, another node in its place), for one node of a tree."""
    if isinstance(node, ast.Name) and node.id in parameters and isinstance(node.ctx, ast.Load):
        following = parameters[(parameters.index(node.id) + 1) % len(parameters)]
        if following != node.id:
            yield "a name", ast.Name(following, ast.Load())
    elif type(node) in CHANGES:
        yield from CHANGES[type(node)](node)


def places(tree):
    """(path, node): how to get to each node below a tree."""
    stack = [((), tree)]
    while stack:
        path, node = stack.pop()
        if path:
            yield path, node
        for name, value in ast.iter_fields(node):
            if isinstance(value, ast.AST):
                stack.append(((*path, (name, None)), value))
            elif isinstance(value, list):
                children = [
                    (i, child) for i, child in enumerate(value) if isinstance(child, ast.AST)
                ]
                stack.extend(((*path, (name, i)), child) for i, child in children)


def replaced(tree, path, new):
    tree = copy.deepcopy(tree)
    node = tree
    for name, i in path[:-1]:
        node = getattr(node, name) if i is None else getattr(node, name)[i]
    name, i = path[-1]
    if i is None:
        setattr(node, name, copy.deepcopy(new))
    else:
        getattr(node, name)[i] = copy.deepcopy(new)
    return ast.fix_missing_locations(tree)


def mutants(function):
    """{(what, before, after, number): the function so changed}, each source once."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    parameters = list(inspect.signature(function).parameters)
    found, sources = {}, {ast.unparse(tree)}
    for path, node in places(tree.body[0]):
        if path[0][0] != "body":
            continue
        for what, new in others(node, parameters):
            mutant = replaced(tree, (("body", 0), *path), new)
            source = ast.unparse(mutant)
            if source in sources:
                continue
            sources.add(source)
            namespace = dict(vars(inspect.getmodule(function)))
            try:
                with warnings.catch_warnings(action="ignore", category=SyntaxWarning):
                    exec(compile(mutant, f"<{what}>", "exec"), namespace)
            except SyntaxError:
                continue
            new_text = ast.unparse(new) if not isinstance(new, ast.Pass) else "nothing"
            line = ast.unparse(node).splitlines()[0]
            key = f"{what}: {line} -> {new_text}"
            while key in found:
                key += " (again)"
            found[key] = namespace[function.__name__]
    return found


def converted(result, convert):
    """A result with every array and number in it of another type."""
    if isinstance(result, dict):
        return {key: converted(part, convert) for key, part in result.items()}
    if isinstance(result, (tuple, list)):
        return type(result)(converted(part, convert) for part in result)
    return convert(result)


def to(torch_type, numpy_type, number):
    def convert(value):
        if isinstance(value, torch.Tensor):
            return value.to(torch_type)
        return value.astype(numpy_type) if isinstance(value, np.ndarray) else number(value)

    return convert


CASTS = {
    "float64": to(torch.float64, np.float64, float),
    "float16": to(torch.float16, np.float16, float),
    "int64": to(torch.int64, np.int64, lambda x: int(x) if abs(x) < np.inf else 0),
    "bool": to(torch.bool, np.bool_, bool),
    "without its gradient": lambda x: x.detach() if isinstance(x, torch.Tensor) else x,
}


def types(result):
    """What a cast may change about a result."""
    if isinstance(result, dict):
        result = [*result.values()]
    if isinstance(result, (tuple, list)):
        return [types(part) for part in result]
    if isinstance(result, torch.Tensor):
        return result.dtype, result.requires_grad
    return np.asarray(result).dtype


def cast(function, arguments):
    """{dtype: the function with all that it returns turned into that dtype}, where it was not."""
    before = function(*arguments)
    return {
        f"a dtype: {name}": lambda *a, c=convert: converted(function(*a), c)
        for name, convert in CASTS.items()
        if types(converted(before, convert)) != types(before)
    }
