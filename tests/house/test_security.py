"""Each line of the threat model names the test that tries to make it come true."""

import ast
import re


def test_every_line_of_the_threat_model_points_to_a_test(root):
    text = (root / "SECURITY.md").read_text("utf-8")
    table = text.partition("### What could happen")[2]
    lines = [line for line in table.splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert len(lines) > 20
    for line in lines:
        named = re.search(r"`(tests/\S+\.py)::(\w+)` \|$", line)
        assert named, line
        tree = ast.parse((root / named[1]).read_text("utf-8"))
        assert named[2] in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, line
