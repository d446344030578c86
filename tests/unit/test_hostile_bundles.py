"""Bundles made to harm: each is refused with a BundleError before anything of it runs, also when all its digests agree."""

import hashlib
import io
import json
import os
import pickle
import shutil
import zipfile

import numpy as np
import onnx
import pandas as pd
import pytest
import skops.io
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from windvane.bundle import canonical, find_bundle, open_bundle, write_bundle
from windvane.check_onnx import onnx_problem
from windvane.check_trees import tree_problems
from windvane.errors import BundleError
from windvane.model_code import load_model_code
from windvane.predictor import load_predictor
from windvane.signature import describe_columns
from windvane.skops_predictor import load_pipeline

RANDOM = np.random.default_rng(0)
ROWS = pd.DataFrame({"a": RANDOM.normal(size=120), "b": RANDOM.normal(size=120)})
LABEL = (ROWS["a"] > 0).astype(int)
MODEL_FILE = "def build_pipeline(params):\n    return None\n"
FILES = ["bundle.json", "golden.parquet", "model.onnx", "model.py", "model.skops", "reference.parquet"]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    root = tmp_path_factory.mktemp("template")
    path = root / "churn.py"
    path.write_text(MODEL_FILE)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression()).fit(ROWS, LABEL)
    manifest = {
        "model": "churn",
        "training_key": "a" * 64,
        "signature": [c.as_json() for c in describe_columns(ROWS, exclude=())],
        "classes": [0, 1],
    }
    made = write_bundle(
        root / "bundles",
        pipeline=pipeline,
        code=load_model_code(path, "churn"),
        golden=ROWS.head(10),
        reference=ROWS,
        manifest=manifest,
    )
    assert sorted(made.files) == FILES
    return made


@pytest.fixture
def bundle(template, tmp_path):
    shutil.copytree(template.path.parent, tmp_path / "bundles")
    return open_bundle(tmp_path / "bundles", template.digest)


@pytest.fixture
def trap(tmp_path):
    """A path that only a payload would write to."""
    path = tmp_path / "pwned"
    yield path
    assert not path.exists()


def forge(bundle, *, runtime=None, **files):
    """Replace files and make every digest agree; returns the new digest."""
    manifest = {**bundle.manifest, "files": dict(bundle.manifest["files"])}
    for name, data in ((name.replace("_", ".", 1), data) for name, data in files.items()):
        (bundle.path / name).write_bytes(data)
        manifest["files"][name] = hashlib.sha256(data).hexdigest()
    if runtime is not None:
        manifest["runtime"] = runtime
    return publish(bundle, canonical(manifest))


def publish(bundle, data):
    (bundle.path / "bundle.json").write_bytes(data)
    return bundle.path.rename(bundle.path.with_name(hashlib.sha256(data).hexdigest())).name


def load(bundle, digest):
    return load_predictor(open_bundle(bundle.path.parent, digest))


SKOPS = {"format": "skops", "reason": "test"}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0.0, 0.3, 0.7, 0.999])
def test_a_flipped_bit_in_any_file_is_refused(bundle, name, place):
    data = bytearray((bundle.path / name).read_bytes())
    data[int(place * len(data))] ^= 1
    (bundle.path / name).write_bytes(bytes(data))
    with pytest.raises(BundleError, match=name):
        open_bundle(bundle.path.parent, bundle.digest)
    if name in ("model.onnx",):
        # also when the file changes between the check and the load
        with pytest.raises(BundleError, match=name):
            load_predictor(bundle)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0, 0.5, 0.99])
def test_a_cut_file_is_refused(bundle, name, kept):
    data = (bundle.path / name).read_bytes()
    (bundle.path / name).write_bytes(data[: int(kept * len(data))])
    with pytest.raises(BundleError, match=name):
        open_bundle(bundle.path.parent, bundle.digest)
    assert find_bundle(bundle.path.parent, bundle.training_key) is None


@pytest.mark.parametrize("name", FILES)
def test_a_link_in_the_place_of_a_file_is_refused_even_to_the_same_bytes(bundle, tmp_path, name):
    (bundle.path / name).rename(tmp_path / "elsewhere")
    (bundle.path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=name):
        open_bundle(bundle.path.parent, bundle.digest)
    if name == "model.onnx":
        with pytest.raises(BundleError, match=name):
            load_predictor(bundle)


@pytest.mark.parametrize("kind", ["directory", "fifo"])
def test_something_else_than_a_file_is_refused_without_waiting_for_it(bundle, kind):
    (bundle.path / "model.onnx").unlink()
    (os.mkdir if kind == "directory" else os.mkfifo)(bundle.path / "model.onnx")
    with pytest.raises(BundleError, match=r"model\.onnx"):
        open_bundle(bundle.path.parent, bundle.digest)


def test_a_link_in_the_place_of_the_bundle_is_refused(bundle, tmp_path):
    bundle.path.rename(tmp_path / "elsewhere")
    bundle.path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="no such bundle"):
        open_bundle(bundle.path.parent, bundle.digest)


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("name", ["MLmodel", "model.pkl", "conda.yaml", ".hidden", "code"])
def test_an_added_file_is_refused_also_when_the_manifest_lists_it(bundle, name, listed):
    data = b"flavors:\n  python_function:\n    loader_module: evil\n    code: code\n"
    if name == "code":
        (bundle.path / name).mkdir()
    else:
        (bundle.path / name).write_bytes(data)
    files = {**bundle.manifest["files"], name: hashlib.sha256(data).hexdigest()} if listed else bundle.manifest["files"]
    digest = publish(bundle, canonical({**bundle.manifest, "files": files}))
    with pytest.raises(BundleError, match=name):
        open_bundle(bundle.path.parent, digest)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "..", "", "sub/model.skops", "model.skops\x00", "MODEL.SKOPS"])
def test_a_path_instead_of_a_file_name_is_refused(bundle, name):
    digest = publish(bundle, canonical({**bundle.manifest, "files": {**bundle.manifest["files"], name: "0" * 64}}))
    with pytest.raises(BundleError, match="files: got"):
        open_bundle(bundle.path.parent, digest)


@pytest.mark.parametrize(
    "data",
    [
        b'{"model": "churn", "model": "other", "files": {}}',
        b'{"model": "churn", "files": {"model.py": "a", "model.py": "b"}}',
        b'{"model": "churn", "metrics": {"roc_auc": NaN}, "files": {}}',
        b'{"model": "churn", "metrics": {"roc_auc": Infinity}, "files": {}}',
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b"[]",
        b"null",
        b'"text"',
        b"{}",
        b'{"files": []}',
        b'{"files": {}}',
        b"\xff\xfe\x00",
        b"",
        b'{"model": "churn"',
        b"9" * 10_000,
    ],
    ids=lambda data: repr(data[:40]),
)
def test_a_manifest_that_is_none_is_refused(bundle, data):
    digest = publish(bundle, data)
    with pytest.raises(BundleError, match=r"bundle\.json"):
        open_bundle(bundle.path.parent, digest)


def test_a_manifest_of_a_hundred_megabytes_is_refused_before_it_is_read(bundle):
    with open(bundle.path / "bundle.json", "wb") as file:
        file.truncate(100_000_000)
    with pytest.raises(BundleError, match="has 100000000 bytes, allowed are 10000000"):
        open_bundle(bundle.path.parent, bundle.digest)


@pytest.mark.parametrize("model", ["../evil", "a.b", "", "os", 3, None, "x" * 100], ids=repr)
def test_a_model_name_that_is_none_is_refused(bundle, model):
    digest = publish(bundle, canonical({**bundle.manifest, "model": model}))
    if model == "os":
        assert load(bundle, digest).bundle.manifest["model"] == "os"
        return
    with pytest.raises(BundleError, match="model: got"):
        open_bundle(bundle.path.parent, digest)


@pytest.mark.parametrize(
    "change",
    [
        {"signature": None},
        {"signature": [{"name": "a"}]},
        {"classes": 5},
        {"runtime": "onnx"},
        {"runtime": {}},
        {"runtime": {"format": "pickle"}},
        {"runtime": {"format": "onnx", "features": {"steps": [["eval", [], {"code": "1"}]], "columns": {"a": 0, "b": 0}}}},
        {"runtime": {"format": "onnx", "features": [1]}},
    ],
    ids=repr,
)
def test_a_manifest_that_makes_no_sense_is_refused(bundle, change):
    digest = publish(bundle, canonical({**bundle.manifest, **change}))
    with pytest.raises(BundleError, match=r"bundle\.json"):
        load(bundle, digest)


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickle_in_the_place_of_the_model_is_refused(bundle, trap):
    digest = forge(bundle, runtime=SKOPS, model_skops=pickle.dumps(Payload(trap)))
    with pytest.raises(BundleError, match="not a skops file"):
        load(bundle, digest)


def rewrite(data, change=None, *, extra=(), compression=zipfile.ZIP_STORED):
    """A skops file with its schema changed and files added."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w", compression) as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "schema.json" and change is not None:
                schema = json.loads(content)
                change(schema)
                content = json.dumps(schema).encode()
            new.writestr(name, content)
        for name, content in extra:
            new.writestr(name, content)
    return made.getvalue()


def test_pickle_inside_of_the_model_is_refused_or_never_read(bundle, trap):
    data = rewrite((bundle.path / "model.skops").read_bytes(), extra=[("payload.pkl", pickle.dumps(Payload(trap)))])
    assert load(bundle, forge(bundle, runtime=SKOPS, model_skops=data)).predict(ROWS).finite()


def all_nodes(node):
    yield node
    values = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for value in values:
        if isinstance(value, dict | list):
            yield from all_nodes(value)


def test_a_schema_that_calls_a_function_is_refused(bundle, trap):
    evil = skops.io.dumps(make_pipeline(FunctionTransformer(os.mkdir, kw_args={"mode": 0o777}), LogisticRegression()))
    with pytest.raises(BundleError, match=r"not trusted: posix\.mkdir"):
        load(bundle, forge(bundle, runtime=SKOPS, model_skops=evil))


@pytest.mark.parametrize(
    "kind", ["os.system", "subprocess.Popen", "builtins.eval", "builtins.exec", "shutil.rmtree", "windvane_model_other.f"]
)
def test_a_schema_with_another_type_in_an_allowed_place_is_refused(bundle, trap, kind):
    def change(schema):
        for node in all_nodes(schema):
            if isinstance(node, dict) and node.get("__class__") == "LogisticRegression":
                node["__module__"], _, node["__class__"] = kind.rpartition(".")

    data = rewrite((bundle.path / "model.skops").read_bytes(), change)
    with pytest.raises(BundleError, match=f"not trusted: {kind}|not a skops file"):
        load(bundle, forge(bundle, runtime=SKOPS, model_skops=data))


def test_an_allow_list_of_the_file_itself_counts_for_nothing(bundle, trap):
    def change(schema):
        schema["trusted"] = ["posix.mkdir"]
        schema["skops_trusted_types"] = ["posix.mkdir"]

    evil = rewrite(skops.io.dumps(FunctionTransformer(os.mkdir)), change)
    with pytest.raises(BundleError, match=r"not trusted: posix\.mkdir"):
        load(bundle, forge(bundle, runtime=SKOPS, model_skops=evil))


def test_a_node_that_holds_pickle_is_refused(bundle, trap):
    def change(schema):
        for node in all_nodes(schema):
            if isinstance(node, dict) and node.get("__loader__") == "NdArrayNode":
                node["__loader__"], node["file"] = "JsonNode", "payload.pkl"

    data = rewrite((bundle.path / "model.skops").read_bytes(), change, extra=[("payload.pkl", pickle.dumps(Payload(trap)))])
    with pytest.raises(BundleError, match=r"model\.skops"):
        load(bundle, forge(bundle, runtime=SKOPS, model_skops=data))


def test_an_array_file_that_is_pickle_is_refused(bundle, trap):
    objects = io.BytesIO()
    np.save(objects, np.array([Payload(trap)], dtype=object), allow_pickle=True)
    old = (bundle.path / "model.skops").read_bytes()
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(old)) as source, zipfile.ZipFile(made, "w") as target:
        for name in source.namelist():
            target.writestr(name, objects.getvalue() if name.endswith(".npy") else source.read(name))
    with pytest.raises(BundleError, match="cannot be loaded"):
        load(bundle, forge(bundle, runtime=SKOPS, model_skops=made.getvalue()))


def test_a_zip_bomb_is_refused_before_it_is_unpacked(bundle):
    bomb = rewrite((bundle.path / "model.skops").read_bytes(), extra=[("zeros.npy", bytes(60_000_000))], compression=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 200_000
    with pytest.raises(BundleError, match="unpacks to 6"):
        load(bundle, forge(bundle, runtime=SKOPS, model_skops=bomb))


def graph_of(*nodes, initializers=(), functions=(), opsets=(("", 21), ("ai.onnx.ml", 4))):
    graph = helper.make_graph(
        list(nodes),
        "evil",
        [helper.make_tensor_value_info(name, TensorProto.DOUBLE, [None, 1]) for name in ("a", "b")],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, [None, 1])],
        list(initializers),
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid(*opset) for opset in opsets], functions=list(functions), ir_version=10
    )


def external():
    tensor = numpy_helper.from_array(np.ones((1, 1)), "w")
    onnx.external_data_helper.set_external_data(tensor, "/etc/passwd", length=8)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    return tensor


def nested(tensor):
    branch = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["z"])], "branch", [], [helper.make_tensor_value_info("z", 11, [1, 1])], [tensor]
    )
    return helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)


ADD = helper.make_node("Add", ["a", "b"], ["y"])
HOSTILE_ONNX = {
    "external data": graph_of(ADD, initializers=[external()]),
    "external data in a constant": graph_of(helper.make_node("Constant", [], ["y"], value=external())),
    "external data in a branch": graph_of(nested(external())),
    "operators of 'com.microsoft'": graph_of(
        helper.make_node("Gelu", ["a"], ["y"], domain="com.microsoft"), opsets=(("", 21), ("com.microsoft", 1))
    ),
    "operators of 'evil'": graph_of(helper.make_node("Add", ["a", "b"], ["y"], domain="evil")),
    "functions": graph_of(ADD, functions=[helper.make_function("evil", "f", ["x"], ["y"], [ADD], [helper.make_opsetid("", 21)])]),
    "training information": graph_of(ADD),
}
HOSTILE_ONNX["training information"].training_info.add()


@pytest.mark.parametrize("problem", HOSTILE_ONNX)
def test_onnx_that_reaches_out_of_itself_is_refused(bundle, problem):
    data = HOSTILE_ONNX[problem].SerializeToString()
    digest = forge(bundle, model_onnx=data)
    with pytest.raises(BundleError, match=problem.partition(" in ")[0]):
        load(bundle, digest)


@pytest.mark.parametrize(
    "data", [b"", b"garbage", b"\x3a\xff\xff\xff\xff\x0f", b"\x08" + b"\xff" * 30, pickle.dumps([1]), b"\x00\x00\x00\x00ORTM" + bytes(90)]
)
def test_what_is_no_onnx_is_refused(bundle, data):
    with pytest.raises(BundleError, match=r"model\.onnx"):
        load(bundle, forge(bundle, model_onnx=data))


def test_onnx_that_is_too_large_is_refused_before_it_is_read(bundle):
    with open(bundle.path / "model.onnx", "wb") as file:
        file.truncate(500_000_001)
    with pytest.raises(BundleError, match="has 500000001 bytes, allowed are 500000000"):
        load_predictor(bundle)


def test_onnx_with_the_model_of_other_columns_does_not_answer(bundle):
    data = graph_of(helper.make_node("Add", ["a", "c"], ["y"])).SerializeToString()
    with pytest.raises(BundleError, match=r"model\.onnx: cannot be loaded"):
        load(bundle, forge(bundle, model_onnx=data))


def test_good_onnx_passes_the_walk_whatever_its_attributes(bundle):
    assert onnx_problem((bundle.path / "model.onnx").read_bytes()) is None
    node = helper.make_node(
        "X",
        ["a"],
        ["y"],
        ints=list(range(-500, 500)),
        floats=[0.5] * 999,
        strings=["\x3a", "@"] * 9,
        deep=helper.make_tensor("t", 1, [2], [1, 2]),
    )
    assert onnx_problem(graph_of(node).SerializeToString()) is None


def nodes_of(tree):
    return tree.__getstate__()["nodes"]


def change_tree(field, value):
    def change(pipeline):
        tree = pipeline[-1].tree_ if hasattr(pipeline[-1], "tree_") else np.ravel(pipeline[-1].estimators_)[0].tree_
        state = tree.__getstate__()
        state["nodes"] = state["nodes"].copy()
        if field in state:
            state[field] = value
        else:
            state["nodes"][field][0] = value
        tree.__setstate__(state)

    return change


TREE_CHANGES = {
    "left outside": change_tree("left_child", 10**6),
    "left negative": change_tree("left_child", -5),
    "right to itself": change_tree("right_child", 0),
    "feature outside": change_tree("feature", 2),
    "feature negative": change_tree("feature", -3),
}


@pytest.mark.parametrize("change", TREE_CHANGES.values(), ids=TREE_CHANGES)
@pytest.mark.parametrize(
    "model",
    [DecisionTreeClassifier(), RandomForestClassifier(3), GradientBoostingClassifier(n_estimators=3)],
    ids=lambda m: type(m).__name__,
)
def test_a_tree_that_leads_out_of_itself_is_refused(bundle, model, change):
    pipeline = make_pipeline(model).fit(ROWS, LABEL)
    assert tree_problems(pipeline) == []
    change(pipeline)
    digest = forge(bundle, runtime=SKOPS, model_skops=dump(pipeline))
    with pytest.raises(BundleError, match=r"model\.skops: (cannot be loaded|Tree: )"):
        load(bundle, digest)


def dump(pipeline):
    return skops.io.dumps(pipeline)


@pytest.mark.parametrize("count", [0, -1])
def test_a_tree_that_counts_no_nodes_is_refused_without_reading_them(bundle, count):
    def change(schema):
        for node in all_nodes(schema):
            if isinstance(node, dict) and "node_count" in node:
                node["node_count"] |= {"content": str(count), "__id__": 1}

    old = dump(make_pipeline(DecisionTreeClassifier()).fit(ROWS, LABEL))
    data = rewrite(old, change)
    with pytest.raises(BundleError, match=f"Tree: counts {count} nodes and holds"):
        load(bundle, forge(bundle, runtime=SKOPS, model_skops=data))


def test_a_tree_with_more_features_than_its_forest_is_refused():
    pipeline = make_pipeline(RandomForestClassifier(3)).fit(ROWS, LABEL)
    other = DecisionTreeClassifier().fit(np.hstack([ROWS, ROWS]), LABEL)
    pipeline[-1].estimators_[1] = other
    with pytest.raises(BundleError, match="1 of its trees read others"):
        load_pipeline(dump(pipeline), "churn", where="model.skops")


@pytest.mark.parametrize(
    ("field", "value"),
    [("left", 10**6), ("right", 0), ("feature_idx", 2), ("feature_idx", -1), ("bitset_idx", 99), ("left", 2**32 - 1)],
)
def test_a_boosted_tree_that_leads_out_of_itself_is_refused(bundle, field, value):
    rows = ROWS.assign(a=np.arange(len(ROWS)) % 6)
    pipeline = make_pipeline(HistGradientBoostingClassifier(max_iter=2, categorical_features=[0], min_samples_leaf=5)).fit(
        rows, rows["a"] % 2
    )
    assert tree_problems(pipeline) == []
    nodes = pipeline[-1]._predictors[0][0].nodes
    assert nodes["is_categorical"][0]
    nodes[field][0] = value
    digest = forge(bundle, runtime=SKOPS, model_skops=dump(pipeline))
    with pytest.raises(BundleError, match=r"model\.skops: HistGradientBoostingClassifier: "):
        load(bundle, digest)


def test_boosted_trees_without_nodes_or_of_other_features_are_refused():
    for change in (
        lambda m: setattr(m._predictors[0][0], "nodes", m._predictors[0][0].nodes[:0]),
        lambda m: setattr(m, "n_features_in_", 5),
    ):
        pipeline = make_pipeline(HistGradientBoostingClassifier(max_iter=2)).fit(ROWS, LABEL)
        change(pipeline[-1])
        with pytest.raises(BundleError, match="HistGradientBoostingClassifier: "):
            load_pipeline(dump(pipeline), "churn", where="model.skops")


def test_neighbours_that_are_not_there_are_refused():
    pipeline = make_pipeline(KNeighborsClassifier(algorithm="kd_tree")).fit(ROWS, LABEL)
    tree = pipeline[-1]._tree
    assert tree_problems(pipeline) == []
    state = list(tree.__getstate__())
    index = np.array(state[1])
    index[0] = 10**6
    state[1] = index
    tree.__setstate__(tuple(state))
    with pytest.raises(BundleError, match="KDTree: its index leads outside"):
        load_pipeline(dump(pipeline), "churn", where="model.skops")


def test_another_model_file_never_runs(bundle, trap):
    (bundle.path / "model.py").write_text(f"import os\nos.mkdir({str(trap)!r})\n")
    with pytest.raises(BundleError, match=r"model\.py"):
        open_bundle(bundle.path.parent, bundle.digest)
    with pytest.raises(BundleError, match=r"model\.py"):
        _ = load_predictor(bundle).code
