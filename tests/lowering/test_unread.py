"""Nodes and initializers that nothing reads any more."""

from onnx import TensorProto, helper

from mpq_export.lowering.unread import names_read, read_nodes, read_values

FIRST = helper.make_node("Neg", ["x"], ["a"], name="first")
DEAD = helper.make_node("Add", ["a", "bias"], ["unread"], name="dead")
DEADER = helper.make_node("Neg", ["unread"], ["nothing"], name="deader")
LAST = helper.make_node("Split", ["a"], ["y", "rest"], name="last", num_outputs=2)


def test_only_what_an_output_depends_on_is_kept_in_order():
    assert read_nodes([FIRST, DEAD, DEADER, LAST], ["y"]) == [FIRST, LAST]
    assert read_nodes([FIRST, DEAD, DEADER, LAST], ["y", "unread"]) == [FIRST, DEAD, LAST]


def test_subgraphs_read_tensors_of_the_graph_around_them():
    inner = helper.make_graph(
        [helper.make_node("Neg", ["a"], ["negative"])],
        "inner",
        [],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            for name in ("z", "negative")
        ],
    )
    branch = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    assert set(names_read([branch])) == {"c", "a", "z", "negative"}
    assert read_nodes([FIRST, branch], ["y"]) == [FIRST, branch]


def test_values_are_kept_where_they_are_read_or_given_out():
    values = {"x": 1, "bias": 2, "y": 3, "spare": 4}
    assert read_values(values, [FIRST, LAST], ["y"]) == {"x": 1, "y": 3}
