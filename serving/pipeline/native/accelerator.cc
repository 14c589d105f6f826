// The extension: what Python sees of the native code. A body becomes tensors, the tensors are run, the results become a
// body, in one call and without a Python object per number or per step, for the predict requests of TensorFlow Serving
// and the infer requests of the Open Inference Protocol.
//
// It is an accelerator in the sense of PEP 399: the code in serving/ does all of this and more, says what is wrong with a
// bad request, and is what this is tested against. Here nothing is refused: what is not plain, or not right, is declined
// with a reason that is counted, and Python reads the body from its beginning. So the answer has the same bytes either way.
//
// It is limited to the stable ABI: one library serves CPython 3.10 and later.

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030A0000
#include <Python.h>

#include <array>
#include <cstdint>
#include <memory>
#include <new>
#include <string_view>

#include "answer.h"
#include "engines/described.h"
#include "model.h"

namespace {

using namespace accelerator;

constexpr int VERSION = 7;  // of the interface between this and serving/pipeline/accelerator.py

// Types and names that the module makes once, and keeps for as long as the process lives.
PyTypeObject* answer_type = nullptr;
PyTypeObject* refusal_type = nullptr;
PyObject* decline_names = nullptr;

struct Predictor {
    PyObject_HEAD PyObject* kept;  // the Python objects whose memory the model points at, and the session
    Model* model;
};

bool read_text(PyObject* value, std::string_view& text) {
    char* start = nullptr;
    Py_ssize_t size = 0;
    if (PyBytes_AsStringAndSize(value, &start, &size) < 0) return false;
    text = {start, static_cast<size_t>(size)};
    return true;
}

bool refuse(const char* reason) {
    PyErr_SetString(PyExc_ValueError, reason);
    return false;
}

// The size of a tuple from 1 to `most`, 0 with an error set where it has another.
size_t read_count(PyObject* tuple, size_t most, const char* reason) {
    const auto count = static_cast<size_t>(PyTuple_Size(tuple));
    if (count >= 1 && count <= most) return count;
    refuse(reason);
    return 0;
}

bool read_input(PyObject* value, Input& input, Endpoint& feed) {
    PyObject *name = nullptr, *datatype = nullptr, *dims = nullptr;
    unsigned long long owner = 0;
    int type = 0;
    if (!PyArg_ParseTuple(value, "SSiO!Ki", &name, &datatype, &type, &PyTuple_Type, &dims, &owner, &feed.index) ||
        !read_text(name, input.name) || !read_text(datatype, input.datatype))
        return false;
    feed.owner = owner;
    input.type = static_cast<Type>(type);
    if (!item_size(input.type)) return refuse("the type of an input is not read here");
    const Py_ssize_t rank = PyTuple_Size(dims);
    if (rank > static_cast<Py_ssize_t>(MAX_RANK)) return refuse("the rank of an input is not read here");
    input.rank = static_cast<size_t>(rank);
    for (Py_ssize_t axis = 0; axis < rank; ++axis) {
        const long long size = PyLong_AsLongLong(PyTuple_GetItem(dims, axis));
        if (size == -1 && PyErr_Occurred()) return false;
        input.dims[static_cast<size_t>(axis)] = size;
    }
    return true;
}

bool read_output(PyObject* value, Output& output, Endpoint& fetch) {
    PyObject *name = nullptr, *key = nullptr, *datatype = nullptr;
    unsigned long long owner = 0;
    int as_bytes = 0, type = 0;
    if (!PyArg_ParseTuple(value, "SSSpiiKi", &name, &key, &datatype, &as_bytes, &type, &output.rank, &owner,
                          &fetch.index) ||
        !read_text(name, output.name) || !read_text(key, output.key) || !read_text(datatype, output.datatype))
        return false;
    fetch.owner = owner;
    output.as_bytes = as_bytes != 0;
    output.type = static_cast<Type>(type);
    return item_size(output.type) != 0 || refuse("the type of an output is not written here");
}

// Requests share runs, and are filled up, only where each input and output has rows.
bool read_sizes(PyObject* sizes, Signature& signature) {
    if (signature.smallest < 1) return refuse("the smallest run has no rows");
    signature.size_count = static_cast<size_t>(PyTuple_Size(sizes));
    if (signature.size_count > MAX_SIZES) return refuse("this many sizes are not used here");
    for (size_t index = 0; index < signature.size_count; ++index) {
        signature.sizes[index] = PyLong_AsLongLong(PyTuple_GetItem(sizes, static_cast<Py_ssize_t>(index)));
        if (signature.sizes[index] < (index ? signature.sizes[index - 1] + 1 : signature.smallest))
            return !PyErr_Occurred() && refuse("the sizes are not in ascending order");
    }
    const bool counts_rows = signature.size_count || signature.smallest > 1;
    for (size_t index = 0; counts_rows && index < signature.input_count; ++index)
        if (!signature.inputs[index].rank || signature.inputs[index].dims[0] >= 0)
            return refuse("an input has no rows to share a run");
    return true;
}

bool read_signature(PyObject* value, size_t index, Signature& signature) {
    signature.index = index;
    PyObject *name = nullptr, *inputs = nullptr, *outputs = nullptr, *sizes = nullptr;
    long long smallest = 1;
    if (!PyArg_ParseTuple(value, "SO!O!|O!L", &name, &PyTuple_Type, &inputs, &PyTuple_Type, &outputs, &PyTuple_Type,
                          &sizes, &smallest) ||
        !read_text(name, signature.name))
        return false;
    signature.smallest = smallest;
    signature.input_count = read_count(inputs, MAX_TENSORS, "this many inputs are not read here");
    if (!signature.input_count) return false;
    signature.output_count = read_count(outputs, MAX_TENSORS, "this many outputs are not written here");
    if (!signature.output_count) return false;
    for (size_t index = 0; index < signature.input_count; ++index)
        if (!read_input(PyTuple_GetItem(inputs, static_cast<Py_ssize_t>(index)), signature.inputs[index],
                        signature.feeds[index]))
            return false;
    for (size_t index = 0; index < signature.output_count; ++index)
        if (!read_output(PyTuple_GetItem(outputs, static_cast<Py_ssize_t>(index)), signature.outputs[index],
                         signature.fetches[index]))
            return false;
    return !sizes || read_sizes(sizes, signature);
}

bool read_labels(PyObject* labels, Model& model) {
    model.label_count = static_cast<size_t>(PyTuple_Size(labels));
    model.labels.reset(new (std::nothrow) std::string_view[model.label_count]);
    if (!model.labels) return PyErr_NoMemory() != nullptr;
    for (size_t index = 0; index < model.label_count; ++index)
        if (!read_text(PyTuple_GetItem(labels, static_cast<Py_ssize_t>(index)), model.labels[index])) return false;
    return true;
}

// Reads the arguments of Predictor into a model; keeps those whose memory it points at.
bool read_model(PyObject* arguments, Model& model, PyObject*& kept) {
    long long rows = 0, elements = 0, id = 0, string = 0, pixels = 0;
    int null = 0;
    PyObject *engine = nullptr, *signatures = nullptr, *head = nullptr, *owner = nullptr;
    PyObject *key = nullptr, *member = nullptr, *labels = nullptr;
    if (!PyArg_ParseTuple(arguments, "O!O!S(SS)O!(LLLLL)pO", &PyTuple_Type, &engine, &PyTuple_Type, &signatures, &head,
                          &key, &member, &PyTuple_Type, &labels, &rows, &elements, &id, &string, &pixels, &null,
                          &owner) ||
        !read_text(head, model.head) || !read_text(key, model.key) || !read_text(member, model.key_member) ||
        !read_labels(labels, model))
        return false;
    model.limits = {rows, elements, id, string, pixels};
    model.null = null != 0;
    model.signature_count = read_count(signatures, MAX_SIGNATURES, "this many signatures are not served here");
    if (!model.signature_count || !(kept = PyTuple_Pack(6, signatures, head, key, member, labels, owner))) return false;
    for (size_t index = 0; index < model.signature_count; ++index)
        if (!read_signature(PyTuple_GetItem(signatures, static_cast<Py_ssize_t>(index)), index,
                            model.signatures[index]))
            return false;
    model.engine = described_engine(engine, model);
    return model.engine != nullptr;
}

PyObject* predictor_new(PyTypeObject* type, PyObject* arguments, PyObject* /*names*/) {
    auto* const allocate = reinterpret_cast<allocfunc>(PyType_GetSlot(type, Py_tp_alloc));
    auto* const self = reinterpret_cast<Predictor*>(allocate(type, 0));  // zeroed
    if (!self) return nullptr;
    self->model = new (std::nothrow) Model();
    if (self->model ? read_model(arguments, *self->model, self->kept) : PyErr_NoMemory() != nullptr)
        return reinterpret_cast<PyObject*>(self);
    Py_DecRef(reinterpret_cast<PyObject*>(self));
    return nullptr;
}

void predictor_dealloc(PyObject* object) {
    auto* const self = reinterpret_cast<Predictor*>(object);
    PyTypeObject* const type = Py_TYPE(object);
    delete self->model;
    Py_XDECREF(self->kept);
    reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free))(object);
    Py_DecRef(reinterpret_cast<PyObject*>(type));
}

// A struct sequence of these values, which it takes over; nullptr where one of them could not be made.
template <size_t count>
PyObject* made(PyTypeObject* type, const std::array<PyObject*, count>& values) {
    PyObject* const result = PyStructSequence_New(type);
    bool fine = result != nullptr;
    for (size_t index = 0; index < count; ++index) {
        fine = fine && values[index];
        if (result)
            PyStructSequence_SetItem(result, static_cast<Py_ssize_t>(index), values[index]);
        else
            Py_XDECREF(values[index]);
    }
    if (fine) return result;
    Py_XDECREF(result);
    return nullptr;
}

PyObject* to_python(const Answer& answer) {
    const auto size = static_cast<Py_ssize_t>(answer.body.size());
    if (answer.declined) {
        PyObject* const name = PyTuple_GetItem(decline_names, static_cast<Py_ssize_t>(*answer.declined));
        Py_IncRef(name);
        return name;
    }
    PyObject* const body = PyBytes_FromStringAndSize(answer.body.data(), size);
    if (answer.code) return made<2>(refusal_type, {PyLong_FromLong(answer.code), body});
    return made<8>(answer_type, {body, PyLong_FromSize_t(answer.json_size), PyLong_FromSize_t(answer.signature),
                                 PyLong_FromLongLong(answer.rows), PyLong_FromLongLong(answer.decoding),
                                 PyLong_FromLongLong(answer.decoded), PyLong_FromLongLong(answer.ran),
                                 PyLong_FromLongLong(answer.encoded)});
}

void respond_without_lock(PyObject* self, unsigned long long note, Item* items, size_t count) {
    const Model& model = *reinterpret_cast<Predictor*>(self)->model;
    PyThreadState* const lock = PyEval_SaveThread();
    Round(model, Note(reinterpret_cast<unsigned char*>(note)), items, count).answer();
    PyEval_RestoreThread(lock);
}

// The options of an address: (signature_name or None, top_k, scores or None).
bool read_options(PyObject* value, Options& options) {
    PyObject *name = nullptr, *scores = nullptr;
    long long top_k = 0;
    if (!value || value == Py_None) return true;
    if (!PyTuple_Check(value)) return refuse("expected a tuple of options");
    if (!PyArg_ParseTuple(value, "OLO", &name, &top_k, &scores)) return false;
    options.top_k = top_k;
    return (name == Py_None || read_text(name, options.signature_name.emplace())) &&
           (scores == Py_None || read_text(scores, options.scores.emplace()));
}

PyObject* predictor_predict(PyObject* self, PyObject* arguments) {
    PyObject *body = nullptr, *options = nullptr;
    unsigned long long note = 0;
    Item item;
    if (!PyArg_ParseTuple(arguments, "S|KO", &body, &note, &options) || !read_text(body, item.body) ||
        !read_options(options, item.options))
        return nullptr;
    respond_without_lock(self, note, &item, 1);
    return to_python(item.answer);
}

PyObject* predictor_infer(PyObject* self, PyObject* arguments) {
    PyObject *body = nullptr, *options = nullptr;
    Py_ssize_t size = 0;
    unsigned long long note = 0;
    Item item;
    if (!PyArg_ParseTuple(arguments, "Sn|KO", &body, &size, &note, &options) || !read_text(body, item.body) ||
        !read_options(options, item.options))
        return nullptr;
    item.json_size = static_cast<size_t>(size);
    respond_without_lock(self, note, &item, 1);
    return to_python(item.answer);
}

bool read_request(PyObject* value, Item& item) {
    PyObject *body = nullptr, *options = nullptr;
    Py_ssize_t size = 0;
    if (!PyTuple_Check(value)) return refuse("expected tuples of a body, the size of its JSON, and options");
    if (!PyArg_ParseTuple(value, "Sn|O", &body, &size, &options) || !read_text(body, item.body) ||
        !read_options(options, item.options))
        return false;
    if (size >= 0) item.json_size = static_cast<size_t>(size);
    return true;
}

PyObject* predictor_together(PyObject* self, PyObject* arguments) {
    PyObject* requests = nullptr;
    unsigned long long note = 0;
    if (!PyArg_ParseTuple(arguments, "O!|K", &PyTuple_Type, &requests, &note)) return nullptr;
    const Py_ssize_t count = PyTuple_Size(requests);
    const std::unique_ptr<Item[]> items(new (std::nothrow) Item[static_cast<size_t>(count)]);
    if (!items) return PyErr_NoMemory();
    for (Py_ssize_t index = 0; index < count; ++index)
        if (!read_request(PyTuple_GetItem(requests, index), items[static_cast<size_t>(index)])) return nullptr;
    respond_without_lock(self, note, items.get(), static_cast<size_t>(count));
    PyObject* const answers = PyTuple_New(count);
    for (Py_ssize_t index = 0; answers && index < count; ++index) {
        PyObject* const answer = to_python(items[static_cast<size_t>(index)].answer);
        if (answer && PyTuple_SetItem(answers, index, answer) == 0) continue;
        Py_DecRef(answers);
        return nullptr;
    }
    return answers;
}

constexpr const char* PREDICT_DOC =
    "predict(body, note=0, options=None) -> Answer | Refusal | str\n\n"
    "Answer a predict request of TensorFlow Serving's. Where Python is to answer it: the reason, one of DECLINES.\n"
    "`options` are those of the address: (signature_name or None, top_k or 0, scores or None).\n"
    "`note` is the address of 512 bytes, in which the signature and the shapes stand while it runs: their size in two\n"
    "bytes, then the text.";
constexpr const char* INFER_DOC =
    "infer(body, size, note=0, options=None) -> the same\n\n"
    "Answer an infer request of the Open Inference Protocol; `size` is that of its JSON, which binary tensors follow.";
constexpr const char* TOGETHER_DOC =
    "together(((body, size, options=None), ...), note=0) -> (the same, ...)\n\n"
    "Answer requests that came at the same time, in as few runs as may be: infer requests, or with a size of -1 predict\n"
    "requests. Each is answered as by itself.";
constexpr const char* PREDICTOR_DOC =
    "Predictor(engine, signatures, head, (key, member), labels,\n"
    "          (max_rows, max_elements, max_id_length, max_string_bytes, max_pixels), null, owner)\n\n"
    "`engine` is (\"tensorflow\", dlopen's handle, (TF_Session*,)) or (\"litert\", dlopen's handle, (LiteRtEnvironment*,\n"
    "LiteRtModel*, LiteRtOptions*, LiteRtCompiledModel*, how many at most)), pointers as numbers; `owner` keeps what they\n"
    "point at. For LiteRT, a tensor's last two are the index of its signature and its position there. The first of the\n"
    "`signatures` answers where none is named; each is (name, inputs, outputs, (size, ...)=(), smallest=1), of\n"
    "    (name, datatype, type, (size or -1, ...), TF_Operation*, index)\n"
    "    (name, member, datatype, as_bytes, type, rank or -1, TF_Operation*, index)\n"
    "a member being a name as JSON with its colon. `key` is the field of a row that comes back, `labels` are the names of\n"
    "classes. A run that requests share has one of the sizes, in ascending order, that of one request at least `smallest`\n"
    "rows; the last row is repeated up to there. `max_pixels` is -1 where strings are no pictures. An infer request's\n"
    "answer begins with `head`. Raises ValueError for a signature that is not served here.";

PyMethodDef methods[] = {
    {"predict", predictor_predict, METH_VARARGS, PREDICT_DOC},
    {"infer", predictor_infer, METH_VARARGS, INFER_DOC},
    {"together", predictor_together, METH_VARARGS, TOGETHER_DOC},
    {nullptr, nullptr, 0, nullptr},
};

PyType_Slot slots[] = {
    {Py_tp_new, reinterpret_cast<void*>(predictor_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(predictor_dealloc)},
    {Py_tp_methods, methods},
    {Py_tp_doc, const_cast<char*>(PREDICTOR_DOC)},
    {0, nullptr},
};
PyType_Spec predictor_spec = {"_accelerator.Predictor", sizeof(Predictor), 0, Py_TPFLAGS_DEFAULT, slots};

PyStructSequence_Field answer_fields[] = {
    {"body", "bytes of the response"},
    {"json_size", "size of the JSON where binary tensors follow it, else 0"},
    {"signature", "position of the signature"},
    {"rows", "size of the batch"},
    {"decoding", "when decoding began, by time.perf_counter_ns"},
    {"decoded", "when the run began"},
    {"ran", "when encoding began"},
    {"encoded", "when the body was complete"},
    {nullptr, nullptr},
};
PyStructSequence_Desc answer_description = {"_accelerator.Answer", "A response.", answer_fields, 8};

PyStructSequence_Field refusal_fields[] = {
    {"code", "TF_Code"},
    {"message", "bytes of TensorFlow's message"},
    {nullptr, nullptr},
};
PyStructSequence_Desc refusal_description = {"_accelerator.Refusal", "TensorFlow refuses the request.", refusal_fields, 2};

PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT, "_accelerator", nullptr, 0, nullptr, nullptr, nullptr, nullptr, nullptr,
};

PyObject* make_names() {
    PyObject* const names = PyTuple_New(static_cast<Py_ssize_t>(DECLINES.size()));
    for (size_t index = 0; names && index < DECLINES.size(); ++index) {
        PyObject* const name = PyUnicode_InternFromString(DECLINES[index]);
        if (!name || PyTuple_SetItem(names, static_cast<Py_ssize_t>(index), name) < 0) return nullptr;
    }
    return names;
}

// Makes what the module keeps, once.
bool prepare() {
    if (!decline_names) decline_names = make_names();
    if (!answer_type) answer_type = PyStructSequence_NewType(&answer_description);
    if (!refusal_type) refusal_type = PyStructSequence_NewType(&refusal_description);
    return decline_names && answer_type && refusal_type;
}

}  // namespace

PyMODINIT_FUNC PyInit__accelerator() {  // NOLINT(bugprone-reserved-identifier): the name is Python's rule
    PyObject* const made = PyModule_Create(&module_definition);
    PyObject* const predictor = made ? PyType_FromSpec(&predictor_spec) : nullptr;
    const bool fine = predictor && prepare() && PyModule_AddIntConstant(made, "VERSION", VERSION) == 0 &&
                      PyModule_AddObjectRef(made, "DECLINES", decline_names) == 0 &&
                      PyModule_AddObjectRef(made, "Answer", reinterpret_cast<PyObject*>(answer_type)) == 0 &&
                      PyModule_AddObjectRef(made, "Refusal", reinterpret_cast<PyObject*>(refusal_type)) == 0 &&
                      PyModule_AddObjectRef(made, "Predictor", predictor) == 0;
    Py_XDECREF(predictor);
    if (fine) return made;
    Py_XDECREF(made);
    return nullptr;
}
