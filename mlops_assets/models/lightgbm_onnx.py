"""A LightGBM model as an ONNX file, for those who serve elsewhere: one input, one output, the service's
scores.

Converted here because the usual converter (onnxmltools) writes thresholds as 32-bit floats and takes no other
input: a value that lies next to a threshold then goes another way through the tree. LightGBM compares
doubles, and so does ONNX's operator `TreeEnsemble`.
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
TOLERANCE = 1e-6  # of a score; what is left is the order in which the trees are added up, a few 1e-15
IR_VERSION, OPSETS = 10, {"": 21, "ai.onnx.ml": 5}  # all of ONNX 1.16, the first with `TreeEnsemble`
# what LightGBM's dump has for infinity, the threshold that parts nulls from all values
DUMPED_INFINITY = 1e300
# LightGBM's kZeroThreshold: a value that is not farther from zero is zero.
NEARLY_ZERO = float(np.float32(1e-35))

Numbers = npt.NDArray[np.float64]


class PortableError(PlatformError, ValueError):
    """A model that has no equal as an ONNX file; the message says what is in the way."""


def portable_model(release: Release, score: str) -> bytes:
    """The release's model and calibrator as an ONNX file whose output is named `score`.

    The file gave every golden row its score within `TOLERANCE`; else `PortableError`.
    """
    content = to_onnx(release.model_text, release.calibrator, score)
    vectors, expected = release.golden
    scores = score_with_onnx(content, np.array([as_row(vector) for vector in vectors], dtype=np.float64))
    for number, (given, recorded) in enumerate(zip(scores.tolist(), expected, strict=True)):
        if not abs(given - recorded) <= TOLERANCE:
            raise PortableError(
                f"golden row {number} scores {given!r} as ONNX, and {recorded!r} in the service"
            )
    return content


def to_onnx(model_text: str, calibrator: Calibrator, score: str) -> bytes:
    """Input `features`: float64 [rows, features] in the model's order, NaN for null.

    Output, named `score`: float64 [rows], calibrated. The names of the features are in the file's metadata
    under `features`, as a JSON list. Equal models give equal bytes.
    """
    import lightgbm
    from onnx import TensorProto, helper, numpy_helper

    model = lightgbm.Booster(model_str=model_text).dump_model()
    _refuse_what_has_no_equal(model)
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
            nodes_modes=tensor(
                "nodes_modes", np.zeros(len(trees.splits), dtype=np.uint8)
            ),  # BRANCH_LEQ, all of them
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
    """What the file gives for the rows [rows, features], by ONNX Runtime: a score a row."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {INPUT: matrix})[0])


def _refuse_what_has_no_equal(model: Mapping[str, Any]) -> None:
    if model["num_tree_per_iteration"] != 1:
        raise PortableError(
            f"the model has {model['num_tree_per_iteration']} outputs; the ONNX file is made of models"
            " with one"
        )
    if model["average_output"]:
        raise PortableError(
            "the model averages its trees (a random forest); the ONNX file is made of models that add them up"
        )


@dataclass
class _Trees:
    """The trees as the operator's columns: a row a split, then a row a leaf.

    A child is its row, and 1 if it is a leaf.
    """

    roots: list[int] = field(default_factory=list)
    features: list[int] = field(default_factory=list)
    splits: list[float] = field(default_factory=list)
    null_is_true: list[int] = field(default_factory=list)
    true: list[tuple[int, int]] = field(default_factory=list)
    false: list[tuple[int, int]] = field(default_factory=list)
    leaves: list[float] = field(default_factory=list)
    missing: dict[int, str] = field(
        default_factory=dict
    )  # of each feature that is split on, what LightGBM takes as missing

    def add(self, tree: Mapping[str, Any]) -> None:
        root = len(self.splits)
        self.roots.append(root)
        if self._place(tree)[1]:
            # A tree of one leaf: by the operator's definition, a split with that leaf on both sides.
            self._split(0, 0.0, True)
            self.true[root] = self.false[root] = (len(self.leaves) - 1, 1)

    def _place(self, node: Mapping[str, Any]) -> tuple[int, int]:
        if "leaf_value" in node:
            if "leaf_coeff" in node:
                raise PortableError(
                    "the model has linear functions in its leaves; the ONNX file is made of models with"
                    " constants in them"
                )
            self.leaves.append(float(node["leaf_value"]))
            return len(self.leaves) - 1, 1
        feature, rule, missing = int(node["split_feature"]), node["decision_type"], node["missing_type"]
        if rule != "<=":
            raise PortableError(
                f"feature {feature} is split by {rule} {node['threshold']}: the ONNX file is made of models"
                " without categories"
            )
        if self.missing.setdefault(feature, missing) != missing:
            raise PortableError(
                f"feature {feature} is missing as {self.missing[feature]} in one split and as {missing} in"
                " another"
            )
        threshold = node["threshold"] if node["threshold"] < DUMPED_INFINITY else math.inf
        # Where nothing was missing in training, LightGBM takes a null as zero.
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
