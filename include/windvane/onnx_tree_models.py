"""Writes scikit-learn's models that are made of trees in ONNX: forests, gradient boosting and histogram-based gradient boosting."""

from typing import Any

import numpy as np

from windvane.onnx_graph import Graph, NotConvertible
from windvane.onnx_transformers import map_values
from windvane.onnx_trees import Tree, add_trees


def write_forest(graph: Graph) -> None:
    """Sums of what the trees say, divided afterwards as scikit-learn does, so that a tie stays a tie."""
    forest = graph.estimator
    if getattr(forest, "n_outputs_", 1) != 1:
        raise NotConvertible(f"{type(forest).__name__} predicts several labels at once")
    members = [member.tree_ for member in getattr(forest, "estimators_", [forest])]
    classes = len(forest.classes_) if hasattr(forest, "classes_") else 1
    trees = [_tree(tree, tree.value[:, 0, :classes], target=0) for tree in members]
    matrix = _as_single(graph)
    total = add_trees(graph, matrix, trees, targets=classes, base=np.zeros(classes), codes={})
    mean = graph.add("Div", total, graph.constant([float(len(members))]))
    _finish_predictions(graph, _refuse_infinity(graph, mean, matrix, nan=False))


def write_gradient_boosting(graph: Graph) -> None:
    """A GradientBoosting model that begins with a constant."""
    model = graph.estimator
    if model.init is not None and model.init != "zero":
        raise NotConvertible(f"{type(model).__name__} begins with an estimator of its own; leave init out")
    targets = model.estimators_.shape[1]
    base = np.zeros((1, targets)) if model.init == "zero" else model._raw_predict_init(np.zeros((1, model.n_features_in_)))
    trees = [
        _tree(member.tree_, model.learning_rate * member.tree_.value[:, 0, :1], target=k)
        for stage in model.estimators_
        for k, member in enumerate(stage)
    ]
    matrix = _as_single(graph)
    raw = add_trees(graph, matrix, trees, targets=targets, base=base.ravel(), codes={})
    raw = _refuse_infinity(graph, raw, matrix, nan=True)
    if hasattr(model, "classes_") and model.loss == "exponential":
        raw = graph.add("Mul", raw, graph.constant([2.0]))
    _finish_predictions(graph, _probabilities(graph, raw, targets) if hasattr(model, "classes_") else raw)


def _tree(tree: Any, values: np.ndarray, *, target: int) -> Tree:
    missing_left = getattr(tree, "missing_go_to_left", np.zeros(tree.node_count, dtype=bool))
    return Tree(
        feature=tree.feature,
        threshold=tree.threshold,
        left=tree.children_left,
        right=tree.children_right,
        leaf=tree.children_left < 0,
        missing_left=np.asarray(missing_left, dtype=bool),
        values=values,
        target=target,
        categories={},
    )


def _as_single(graph: Graph) -> str:
    """The features rounded to 32 bits, as these trees of scikit-learn read them."""
    return graph.cast(graph.cast(graph.matrix(), "FLOAT"), "DOUBLE")


def _refuse_infinity(graph: Graph, found: str, matrix: str, *, nan: bool) -> str:
    """Make the answer NaN for rows that scikit-learn refuses: with infinity, and perhaps with NaN."""
    poison = graph.add("Sub", matrix, matrix)
    if not nan:
        poison = graph.add("Where", graph.add("IsNaN", matrix), graph.constant([0.0]), poison)
    return graph.add("Add", found, graph.add("ReduceSum", poison, graph.constant([1]), keepdims=1))


def write_hist_gradient_boosting(graph: Graph) -> None:
    """A HistGradientBoosting model, categories too."""
    model = graph.estimator
    matrix, codes, numbers = graph.matrix(), {}, []
    if model._preprocessor is not None:
        encoder = model._preprocessor.named_transformers_["encoder"]
        if any(isinstance(value, str) or value is None for known in encoder.categories_ for value in known):
            raise NotConvertible("HistGradientBoosting with texts as categories; encode them with an OrdinalEncoder before it")
        chosen = np.flatnonzero(model.is_categorical_).tolist()
        for i, column in enumerate(chosen):
            known = [float(value) for value in encoder.categories_[i] if value == value]
            numbers.append(len(known))
            values = graph.add("Gather", matrix, graph.constant([column]), axis=1)
            codes[i] = map_values(graph, values, known, np.arange(len(known), dtype=float), default=float(len(known)), text=False)
        rest = np.flatnonzero(~model.is_categorical_)
        # scikit-learn puts the categories in front; those columns are read by their codes only
        matrix = graph.add("Gather", matrix, graph.constant(np.concatenate([chosen, rest]).astype(np.int64)), axis=1)
    known_bits, place = model._bin_mapper.make_known_categories_bitsets()
    trees = [
        _hist_tree(predictor, numbers, known_bits, place, target=k) for stage in model._predictors for k, predictor in enumerate(stage)
    ]
    targets = model.n_trees_per_iteration_
    raw = add_trees(graph, matrix, trees, targets=targets, base=model._baseline_prediction.ravel(), codes=codes)
    if hasattr(model, "classes_"):
        _finish_predictions(graph, _probabilities(graph, raw, targets))
        return
    link = type(model._loss.link).__name__
    if link not in ("IdentityLink", "LogLink"):
        raise NotConvertible(f"HistGradientBoosting with the link {link}")
    _finish_predictions(graph, graph.add("Exp", raw) if link == "LogLink" else raw)


def _hist_tree(predictor: Any, numbers: list[int], known_bits: np.ndarray, place: np.ndarray, *, target: int) -> Tree:
    nodes = predictor.nodes
    categories = {}
    for node in np.flatnonzero((nodes["is_categorical"] == 1) & (nodes["is_leaf"] == 0)).tolist():
        feature = int(nodes["feature_idx"][node])
        left, known = _bits(predictor.raw_left_cat_bitsets[nodes["bitset_idx"][node]]), _bits(known_bits[place[feature]])
        unseen_left = ~known & bool(nodes["missing_go_to_left"][node])
        categories[node] = (left | unseen_left)[: numbers[feature]]
    return Tree(
        feature=nodes["feature_idx"],
        threshold=nodes["num_threshold"],
        left=nodes["left"],
        right=nodes["right"],
        leaf=nodes["is_leaf"] == 1,
        missing_left=nodes["missing_go_to_left"] == 1,
        values=nodes["value"][:, None],
        target=target,
        categories=categories,
    )


def _bits(words: np.ndarray) -> np.ndarray:
    return np.unpackbits(np.ascontiguousarray(words).view(np.uint8), bitorder="little").astype(bool)


def _probabilities(graph: Graph, raw: str, targets: int) -> str:
    if targets > 1:
        return graph.add("Softmax", raw, axis=1)
    positive = graph.add("Sigmoid", raw)
    return graph.concat([graph.add("Sub", graph.constant([1.0]), positive), positive])


def _finish_predictions(graph: Graph, found: str) -> None:
    """Name the outputs: the number of a regression, or label and probabilities of a classifier."""
    if not hasattr(graph.estimator, "classes_"):
        graph.finish(found)
        return
    classes = np.asarray(graph.estimator.classes_)
    labels = graph.constant(classes.astype(np.int64) if classes.dtype.kind in "biuf" else classes)
    graph.finish(graph.add("Gather", labels, graph.add("ArgMax", found, axis=1, keepdims=0), axis=0), found)
