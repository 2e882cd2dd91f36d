"""A LightGBM model as an ONNX file for other servers: one input, one output, the scores of the service.

The usual converter (onnxmltools) writes thresholds and takes inputs as 32-bit floats. A value next to a
threshold can then take another branch. LightGBM compares doubles, and so does ONNX's operator `TreeEnsemble`,
which this module writes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mlops_assets.errors import PlatformError
from serving.contract.bundle import Release, as_row
from serving.contract.scorers.lightgbm import Calibrator

INPUT = "features"
TOLERANCE = 1e-6  # Of a score. Another order of adding the trees makes a difference of a few 1e-15.
IR_VERSION, OPSETS = 10, {"": 21, "ai.onnx.ml": 5}  # all of ONNX 1.16, the first with `TreeEnsemble`
# LightGBM's dump writes this for infinity, the threshold that separates nulls from all values.
DUMPED_INFINITY = 1e300
# LightGBM's kZeroThreshold. A value of at most this size counts as zero.
NEARLY_ZERO = float(np.float32(1e-35))

Numbers = npt.NDArray[np.float64]


class OnnxExportError(PlatformError, ValueError):
    """A model that cannot be an ONNX file with the same scores. The message names the obstacle."""


def onnx_file(release: Release, score: str) -> bytes:
    """The bytes of the release's model and calibrator as an ONNX file with the output `score`.

    The file is tried on the golden rows. Raises `OnnxExportError` where a score differs by more than
    `TOLERANCE`, or where ONNX cannot express the model.
    """
    content = to_onnx(release.model_text, release.calibrator, score)
    vectors, expected = release.golden
    scores = score_with_onnx(content, np.array([as_row(vector) for vector in vectors], dtype=np.float64))
    for number, (given, recorded) in enumerate(zip(scores.tolist(), expected, strict=True)):
        if not abs(given - recorded) <= TOLERANCE:
            raise OnnxExportError(
                f"golden row {number} scores {given!r} as ONNX, and {recorded!r} in the service"
            )
    return content


def to_onnx(model_text: str, calibrator: Calibrator, score: str) -> bytes:
    """The bytes of a model and its calibrator as an ONNX file. Equal models give equal bytes.

    The input `features` is float64 [rows, features] in the model's order, with NaN for null. The output with
    the name `score` is float64 [rows], calibrated. The metadata `features` of the file has the names of the
    features as a JSON list. Raises `OnnxExportError`.
    """
    import lightgbm
    from onnx import TensorProto, helper, numpy_helper

    model = lightgbm.Booster(model_str=model_text).dump_model()
    _refuse_unexpressible(model)
    names: list[str] = model["feature_names"]
    trees = _Trees()
    for tree in model["tree_info"]:
        trees.add(tree["tree_structure"])

    def tensor(name: str, values: Any) -> Any:
        return numpy_helper.from_array(np.asarray(values), name)

    constants = {
        "nearly_zero": NEARLY_ZERO,
        "zero": [np.nan if trees.missing.get(i) == "Zero" else 0.0 for i in range(len(names))],
        "a": calibrator.a,
        "b": calibrator.b,
        "columns": np.array([1]),
    }
    nodes = [
        helper.make_node("Abs", [INPUT], ["size"]),
        helper.make_node("LessOrEqual", ["size", "nearly_zero"], ["is_zero"]),
        helper.make_node("Where", ["is_zero", "zero", INPUT], ["values"]),
        helper.make_node(
            "TreeEnsemble",
            ["values"],
            ["margins"],
            domain="ai.onnx.ml",
            n_targets=1,
            aggregate_function=1,  # SUM
            post_transform=0,  # NONE
            tree_roots=trees.roots,
            # All splits are BRANCH_LEQ.
            nodes_modes=tensor("nodes_modes", np.zeros(len(trees.splits), dtype=np.uint8)),
            nodes_featureids=trees.features,
            nodes_splits=tensor("nodes_splits", trees.splits),
            nodes_missing_value_tracks_true=trees.null_is_true,
            nodes_truenodeids=[child for child, _ in trees.true],
            nodes_trueleafs=[leaf for _, leaf in trees.true],
            nodes_falsenodeids=[child for child, _ in trees.false],
            nodes_falseleafs=[leaf for _, leaf in trees.false],
            leaf_targetids=[0] * len(trees.leaves),
            leaf_weights=tensor("leaf_weights", trees.leaves),
        ),
        helper.make_node("Squeeze", ["margins", "columns"], ["margin"]),
        helper.make_node("Mul", ["margin", "a"], ["scaled"]),
        helper.make_node("Add", ["scaled", "b"], ["log_odds"]),
        helper.make_node("Sigmoid", ["log_odds"], [score]),
    ]
    graph = helper.make_graph(
        nodes,
        score,
        [helper.make_tensor_value_info(INPUT, TensorProto.DOUBLE, ["rows", len(names)])],
        [helper.make_tensor_value_info(score, TensorProto.DOUBLE, ["rows"])],
        [tensor(name, value) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
    made = helper.make_model(graph, ir_version=IR_VERSION, opset_imports=opsets, producer_name="mlops-assets")
    helper.set_model_props(made, {"features": json.dumps(names)})
    return made.SerializeToString(deterministic=True)


def score_with_onnx(content: bytes, matrix: Numbers) -> Numbers:
    """The scores of an ONNX file for the rows [rows, features], by ONNX Runtime: float64 [rows]."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {INPUT: matrix})[0])


def _refuse_unexpressible(model: Mapping[str, Any]) -> None:
    if model["num_tree_per_iteration"] != 1:
        raise OnnxExportError(
            f"the model has {model['num_tree_per_iteration']} outputs; only a model with one output can be"
            " exported"
        )
    if model["average_output"]:
        raise OnnxExportError(
            "the model averages its trees (a random forest); only a model that adds its trees can be exported"
        )


@dataclass
class _Trees:
    """The trees as the attributes of the operator, which has a table of splits and a table of leaves.

    A child is a row in one of the tables, with 1 for a leaf and 0 for a split.
    """

    roots: list[int] = field(default_factory=list)
    features: list[int] = field(default_factory=list)
    splits: list[float] = field(default_factory=list)
    null_is_true: list[int] = field(default_factory=list)
    true: list[tuple[int, int]] = field(default_factory=list)
    false: list[tuple[int, int]] = field(default_factory=list)
    leaves: list[float] = field(default_factory=list)
    missing: dict[int, str] = field(default_factory=dict)  # LightGBM's missing type by feature

    def add(self, tree: Mapping[str, Any]) -> None:
        root = len(self.splits)
        self.roots.append(root)
        if self._place(tree)[1]:
            # The operator defines a tree of one leaf as a split with that leaf on both sides.
            self._split(0, 0.0, True)
            self.true[root] = self.false[root] = (len(self.leaves) - 1, 1)

    def _place(self, node: Mapping[str, Any]) -> tuple[int, int]:
        if "leaf_value" in node:
            if "leaf_coeff" in node:
                raise OnnxExportError(
                    "the model has linear functions in its leaves; only a model with constants in its"
                    " leaves can be exported"
                )
            self.leaves.append(float(node["leaf_value"]))
            return len(self.leaves) - 1, 1
        feature, rule, missing = int(node["split_feature"]), node["decision_type"], node["missing_type"]
        if rule != "<=":
            raise OnnxExportError(
                f"feature {feature} is split by {rule} {node['threshold']}: only a model without"
                " categories can be exported"
            )
        if self.missing.setdefault(feature, missing) != missing:
            raise OnnxExportError(
                f"feature {feature} is missing as {self.missing[feature]} in one split and as {missing} in"
                " another"
            )
        threshold = node["threshold"] if node["threshold"] < DUMPED_INFINITY else math.inf
        # Where training had no missing value, LightGBM takes a null as zero.
        row = self._split(feature, threshold, threshold >= 0 if missing == "None" else node["default_left"])
        self.true[row], self.false[row] = self._place(node["left_child"]), self._place(node["right_child"])
        return row, 0

    def _split(self, feature: int, threshold: float, null_is_true: bool) -> int:
        self.features.append(feature)
        self.splits.append(threshold)
        self.null_is_true.append(int(null_is_true))
        self.true.append((0, 0))
        self.false.append((0, 0))
        return len(self.splits) - 1
