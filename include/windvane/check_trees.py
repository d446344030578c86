"""Checks the arrays of trees that came out of a file: scikit-learn follows their indices without looking where they lead."""

from collections.abc import Iterator
from typing import Any

import numpy as np


def tree_problems(model: Any) -> list[str]:
    """What is wrong with the trees inside a loaded model; empty if each index stays inside and each path ends."""
    found = []
    for part in _parts(model):
        check = _CHECKS.get(f"{type(part).__module__}.{type(part).__name__}", _check_owner)
        try:
            problem = check(part)
        except (AttributeError, TypeError, ValueError, IndexError, KeyError) as exc:
            problem = f"incomplete ({type(exc).__name__})"
        if problem:
            found.append(f"{type(part).__name__}: {problem}")
    return found


def _parts(model: Any) -> Iterator[Any]:
    """Every object inside, containers too."""
    seen: dict[int, Any] = {}
    waiting = [model]
    while waiting:
        part = waiting.pop()
        if id(part) in seen or isinstance(part, str | bytes | int | float | type | None):
            continue
        seen[id(part)] = part
        yield part
        if isinstance(part, dict):
            waiting += part.values()
        elif isinstance(part, list | tuple | set | frozenset):
            waiting += part
        elif isinstance(part, np.ndarray):
            waiting += part.ravel().tolist() if part.dtype == object else []
        else:
            waiting += getattr(part, "__dict__", {}).values()


def _bad_nodes(left: np.ndarray, right: np.ndarray, leaf: np.ndarray, feature: np.ndarray, features: int) -> str | None:
    nodes = np.arange(len(leaf))
    inner = ~leaf
    for name, child in (("left", left), ("right", right)):
        # scikit-learn numbers a child after its parent, so no path comes back
        outside = inner & ((child <= nodes) | (child >= len(leaf)))
        if outside.any():
            return f"the {name} child of node {int(np.flatnonzero(outside)[0])} is not one of the nodes behind it"
    outside = inner & ((feature < 0) | (feature >= features))
    if outside.any():
        return f"node {int(np.flatnonzero(outside)[0])} reads a feature outside of the {features}"
    return None if len(leaf) else "has no nodes"


def _check_tree(tree: Any) -> str | None:
    if not 0 < tree.node_count <= tree.capacity:
        return f"counts {tree.node_count} nodes and holds {tree.capacity}"
    return _bad_nodes(tree.children_left, tree.children_right, tree.children_left == -1, tree.feature, tree.n_features)


def _check_hist_model(model: Any) -> str | None:
    """The trees of a HistGradientBoosting model, which know neither the number of features nor that of the categories."""
    if not hasattr(model, "_predictors"):
        return None
    features = model.n_features_in_
    mapper = model._bin_mapper
    if model._n_features != features or len(mapper.is_categorical_) != features:
        return f"was fitted on {features} features, but its parts were not"
    for predictor in (predictor for stage in model._predictors for predictor in stage):
        nodes, sets = predictor.nodes, predictor.raw_left_cat_bitsets
        problem = _bad_nodes(
            nodes["left"].astype(np.int64), nodes["right"].astype(np.int64), nodes["is_leaf"] == 1, nodes["feature_idx"], features
        )
        split = (nodes["is_leaf"] != 1) & (nodes["is_categorical"] != 0)
        if not problem and np.any(split & ((nodes["bitset_idx"] >= len(sets)) | ~mapper.is_categorical_[nodes["feature_idx"] % features])):
            problem = "a node reads a set of categories that is not there"
        if not problem and (sets.ndim != 2 or (len(sets) and sets.shape[1] != 8)):
            problem = "sets of categories have another size than 256 bits"
        if problem:
            return problem
    return None


def _check_neighbours(tree: Any) -> str | None:
    state = tree.__getstate__()
    data, index, nodes, bounds = (np.asarray(part) for part in state[:4])
    if len(index) != len(data) or (len(index) and not 0 <= index.min() <= index.max() < len(data)):
        return "its index leads outside of its points"
    behind = 2 * np.flatnonzero(nodes["is_leaf"] == 0) + 2
    if state[6] != len(nodes) or len(nodes) != bounds.shape[1] or np.any(behind >= len(nodes)):
        return "its nodes lead outside of themselves"
    if np.any(nodes["idx_start"] < 0) or np.any(nodes["idx_end"] > len(index)):
        return "its nodes lead outside of its points"
    return None


def _check_owner(part: Any) -> str | None:
    """An estimator must have as many features as its trees: scikit-learn compares its input with the estimator only."""
    if part.__class__.__module__.startswith("sklearn.ensemble._bagging"):
        return None
    members = np.asarray(getattr(part, "estimators_", []), dtype=object).ravel().tolist() if hasattr(part, "estimators_") else [part]
    wanted = getattr(part, "n_features_in_", None)
    odd = [member for member in members if hasattr(member, "tree_") and member.tree_.n_features != wanted]
    return f"reads {wanted} features and {len(odd)} of its trees read others" if odd else None


_CHECKS = {
    "sklearn.tree._tree.Tree": _check_tree,
    "sklearn.ensemble._hist_gradient_boosting.gradient_boosting.HistGradientBoostingClassifier": _check_hist_model,
    "sklearn.ensemble._hist_gradient_boosting.gradient_boosting.HistGradientBoostingRegressor": _check_hist_model,
    "sklearn.neighbors._kd_tree.KDTree": _check_neighbours,
    "sklearn.neighbors._ball_tree.BallTree": _check_neighbours,
}
