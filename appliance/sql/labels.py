"""What an output column is called where the text gives it no name (FigureColname in the server's parse_target.c)."""

from __future__ import annotations

from typing import Any

from pglast.enums import A_Expr_Kind, JsonExprOp, MinMaxOp, SQLValueFunctionOp, SubLinkType, XmlExprOp

from appliance.sql.tree import ast

UNNAMED = "?column?"

# Nesting of casts, collations and CASEs through which a name is looked for.
_DEPTH_MAX = 120

_SQL_VALUES = {
    SQLValueFunctionOp.SVFOP_CURRENT_DATE: "current_date",
    SQLValueFunctionOp.SVFOP_CURRENT_TIME: "current_time",
    SQLValueFunctionOp.SVFOP_CURRENT_TIME_N: "current_time",
    SQLValueFunctionOp.SVFOP_CURRENT_TIMESTAMP: "current_timestamp",
    SQLValueFunctionOp.SVFOP_CURRENT_TIMESTAMP_N: "current_timestamp",
    SQLValueFunctionOp.SVFOP_LOCALTIME: "localtime",
    SQLValueFunctionOp.SVFOP_LOCALTIME_N: "localtime",
    SQLValueFunctionOp.SVFOP_LOCALTIMESTAMP: "localtimestamp",
    SQLValueFunctionOp.SVFOP_LOCALTIMESTAMP_N: "localtimestamp",
    SQLValueFunctionOp.SVFOP_CURRENT_ROLE: "current_role",
    SQLValueFunctionOp.SVFOP_CURRENT_USER: "current_user",
    SQLValueFunctionOp.SVFOP_USER: "user",
    SQLValueFunctionOp.SVFOP_SESSION_USER: "session_user",
    SQLValueFunctionOp.SVFOP_CURRENT_CATALOG: "current_catalog",
    SQLValueFunctionOp.SVFOP_CURRENT_SCHEMA: "current_schema",
}

_XML = {
    XmlExprOp.IS_XMLCONCAT: "xmlconcat",
    XmlExprOp.IS_XMLELEMENT: "xmlelement",
    XmlExprOp.IS_XMLFOREST: "xmlforest",
    XmlExprOp.IS_XMLPARSE: "xmlparse",
    XmlExprOp.IS_XMLPI: "xmlpi",
    XmlExprOp.IS_XMLROOT: "xmlroot",
}

_JSON_FUNCTIONS = {
    JsonExprOp.JSON_EXISTS_OP: "json_exists",
    JsonExprOp.JSON_QUERY_OP: "json_query",
    JsonExprOp.JSON_VALUE_OP: "json_value",
}

_FIXED: dict[type[Any], str] = {
    ast.A_ArrayExpr: "array",
    ast.RowExpr: "row",
    ast.CoalesceExpr: "coalesce",
    ast.GroupingFunc: "grouping",
    ast.MergeSupportFunc: "merge_action",
    ast.XmlSerialize: "xmlserialize",
    ast.JsonParseExpr: "json",
    ast.JsonScalarExpr: "json_scalar",
    ast.JsonSerializeExpr: "json_serialize",
    ast.JsonObjectConstructor: "json_object",
    ast.JsonArrayConstructor: "json_array",
    ast.JsonArrayQueryConstructor: "json_array",
    ast.JsonObjectAgg: "json_objectagg",
    ast.JsonArrayAgg: "json_arrayagg",
}


def label(node: Any) -> str:
    """The name of an output column that shows that expression."""
    return _found(node, 0)[1] or UNNAMED


def _found(node: Any, depth: int) -> tuple[int, str]:
    """How sure a name is (0: none, 1: weak, 2: good), and the name."""
    kind = type(node)
    if depth > _DEPTH_MAX or node is None:
        return 0, ""
    if kind in _FIXED:
        return 2, _FIXED[kind]
    if kind is ast.ColumnRef:
        names = [field.sval for field in node.fields if type(field) is ast.String]
        return (2, names[-1]) if names else (0, "")
    if kind is ast.A_Indirection:
        names = [part.sval for part in node.indirection if type(part) is ast.String]
        return (2, names[-1]) if names else _found(node.arg, depth + 1)
    if kind is ast.FuncCall:
        return 2, node.funcname[-1].sval
    if kind is ast.A_Expr:
        return (2, "nullif") if node.kind == A_Expr_Kind.AEXPR_NULLIF else (0, "")
    if kind is ast.TypeCast:
        strength, name = _found(node.arg, depth + 1)
        return (strength, name) if strength > 1 else (1, node.typeName.names[-1].sval)
    if kind is ast.CollateClause:
        return _found(node.arg, depth + 1)
    if kind is ast.CaseExpr:
        strength, name = _found(node.defresult, depth + 1)
        return (strength, name) if strength > 1 else (1, "case")
    if kind is ast.MinMaxExpr:
        return 2, "greatest" if node.op == MinMaxOp.IS_GREATEST else "least"
    if kind is ast.SQLValueFunction:
        return 2, _SQL_VALUES.get(node.op, "")
    if kind is ast.XmlExpr:
        name = _XML.get(node.op, "")
        return (2, name) if name else (0, "")
    if kind is ast.JsonFuncExpr:
        return 2, _JSON_FUNCTIONS.get(node.op, "")
    if kind is ast.SubLink:
        return _of_sublink(node, depth)
    return 0, ""


def _of_sublink(node: Any, depth: int) -> tuple[int, str]:
    if node.subLinkType == SubLinkType.EXISTS_SUBLINK:
        return 2, "exists"
    if node.subLinkType == SubLinkType.ARRAY_SUBLINK:
        return 2, "array"
    if node.subLinkType != SubLinkType.EXPR_SUBLINK:
        return 0, ""
    query = node.subselect
    while query.larg is not None:
        query = query.larg
    if query.valuesLists:
        return 2, "column1"
    target = query.targetList[0] if query.targetList else None
    if target is None:
        return 0, ""
    return 2, target.name or _found(target.val, depth + 1)[1] or UNNAMED
