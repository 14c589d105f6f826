// The quick way of a request for predictions: a body becomes tensors, the tensors are run, the answer becomes a body,
// in one call and without a Python object per number or per step. It knows the predict requests of TensorFlow Serving
// and the infer requests of the Open Inference Protocol, in JSON and in binary.
//
// It is an accelerator in the sense of PEP 399: the code in serving/ does all of this and more, says what is wrong with
// a bad request, and is what this is tested against. Here nothing is refused and nothing is reported: whatever is not
// plain, or not right, is declined (None), and goes the way through serving/. So the answer has the same bytes
// whichever way was taken.
//
// It is limited to the stable ABI: one library serves CPython 3.10 and later.

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030A0000
#include <Python.h>

#include <time.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "answer.h"
#include "bytes.h"
#include "call.h"
#include "infer.h"
#include "predict.h"
#include "tensorflow.h"

using namespace accelerator;

namespace {

constexpr int VERSION = 2;  // of what this and serving/pipeline/accelerator.py say to each other

// What a run holds of TensorFlow's, given back at its end.
class Run {
  public:
    explicit Run(const Library& tf) : tf_(tf), status_(tf.new_status()) {}
    Run(const Run&) = delete;
    Run& operator=(const Run&) = delete;
    ~Run() {
        for (TF_Tensor* tensor : fed_)
            if (tensor) tf_.delete_tensor(tensor);
        for (TF_Tensor* tensor : fetched_)
            if (tensor) tf_.delete_tensor(tensor);
        tf_.delete_status(status_);
    }

    bool feed(Call& call) {
        const Signature& signature = *call.signature;
        for (int place = 0; place < signature.inputs; ++place) {
            const Input& input = signature.input[place];
            Column& column = call.columns[place];
            size_t wanted = item_size(input.type);
            for (int axis = 0; axis < input.rank; ++axis) wanted *= static_cast<size_t>(column.dims[axis]);
            if (input.type == STRING) {
                if (wanted / item_size(STRING) != column.elements.size() / sizeof(Part)) return false;
                if (!(fed_[place] = strings(column, input.rank, wanted))) return false;
                continue;
            }
            if (wanted != column.size()) return false;
            TF_Tensor* tensor = tf_.allocate_tensor(input.type, column.dims, input.rank, wanted);
            if (!tensor) return false;
            fed_[place] = tensor;
            void* const data = tf_.data(tensor);
            if (!data) return false;  // there was no memory
            std::memcpy(data, column.data(), wanted);
            column.elements.free();
        }
        return true;
    }

    TF_Tensor* strings(Column& column, int rank, size_t size) {
        auto* buffer = static_cast<char*>(std::malloc(size));
        if (!buffer) return nullptr;
        for (size_t at = 0; at < size; at += item_size(STRING)) {
            const Part part = column.part(static_cast<int64_t>(at / item_size(STRING)));
            tf_.string_init(buffer + at);
            tf_.string_copy(buffer + at, column.text.data() + part.start, part.size);
        }
        // The tensor may live longer than this run: a graph may keep an input. Without one, it has been released too.
        auto* const arguments = reinterpret_cast<void*>(tf_.string_dealloc);
        TF_Tensor* tensor = tf_.new_tensor(STRING, column.dims, rank, buffer, size, release, arguments);
        column.elements.free();
        column.text.free();
        return tensor;
    }

    bool run(TF_Session* session, const Signature& signature) {
        tf_.run(session, nullptr, signature.feeds, fed_, signature.inputs, signature.fetches, fetched_,
                signature.outputs, nullptr, 0, nullptr, status_);
        for (int place = 0; place < signature.outputs; ++place)
            if (!fetched_[place]) return false;  // "On failure, output_values[] contains NULLs" - c_api.h
        return true;
    }
    int code() const { return tf_.get_code(status_); }
    const char* message() const { return tf_.message(status_); }

    bool write(const Predict& call, const Text&, bool null, Bytes& json, size_t&) {
        const Signature& signature = *call.signature;
        const Form form = call.form;
        Result results[MAX_TENSORS];
        for (int place = 0; place < signature.outputs; ++place)
            if (!look(fetched_[place], signature.output[place], null, results[place])) return false;
        const bool alone = signature.outputs == 1;
        if (form == COLUMNS || alone) {
            if (form == ROWS && !by_rows(call, results[0])) return false;
            if (form == ROWS)
                json.add("{\"predictions\":");
            else
                json.add("{\"outputs\":");
            for (int place = 0; place < signature.outputs; ++place) {
                if (!alone) json.add(place ? ',' : '{');
                if (!alone) json.add(signature.output[place].key);
                results[place].add(json, 0, 0, null);
            }
            if (!alone) json.add('}');
        } else {
            for (int place = 0; place < signature.outputs; ++place)
                if (!by_rows(call, results[place])) return false;
            json.add("{\"predictions\":[");
            for (int64_t row = 0; row < results[0].dims[0]; ++row) {
                if (row) json.add(',');
                for (int place = 0; place < signature.outputs; ++place) {
                    json.add(place ? ',' : '{');
                    json.add(signature.output[place].key);
                    results[place].add(json, 1, row, null);
                }
                json.add('}');
            }
            json.add(']');
        }
        json.add('}');
        return json.ok();
    }

    // `head` is how the answer begins, {"model_name":…,"model_version":…; `size` becomes that of the JSON where binary
    // tensors follow it.
    bool write(const Infer& call, const Text& head, bool null, Bytes& json, size_t& size) {
        const Signature& signature = *call.signature;
        Result results[MAX_TENSORS];
        bool any = false;
        json.add(head);
        if (call.id.start) {
            json.add(",\"id\":\"");
            json.add(call.id);
            json.add('"');
        }
        json.add(",\"outputs\":[");
        for (int index = 0; index < call.asked; ++index) {
            const Output& output = signature.output[call.output[index]];
            Result& result = results[index];
            if (!look(fetched_[call.output[index]], output, null, result)) return false;
            result.as_bytes = false;
            if (!result.all_text && !call.binary[index]) return false;
            if (index) json.add(',');
            json.add("{\"name\":");
            json.add(Text{output.key.start, output.key.size - 1});
            json.add(",\"shape\":[");
            for (int axis = 0; axis < result.rank; ++axis) {
                if (axis) json.add(',');
                add_number(json, result.dims[axis], SHORT, false);
            }
            json.add("],\"datatype\":\"");
            json.add(output.datatype);
            if (call.binary[index]) {
                any = true;
                json.add("\",\"parameters\":{\"binary_data_size\":");
                add_number(json, output.type == STRING ? result.lengths() : result.bytes, SHORT, false);
                json.add("}}");
            } else {
                json.add("\",\"data\":");
                result.add_flat(json, null);
                json.add('}');
            }
        }
        json.add("]}");
        if (any) {
            size = json.size();
            for (int index = 0; index < call.asked; ++index)
                if (call.binary[index]) results[index].add_binary(json);
        }
        return json.ok();
    }

  private:
    // Says whether an output has a value for each row of the request.
    static bool by_rows(const Predict& call, const Result& result) {
        return result.rank && result.dims[0] == call.columns[0].dims[0];
    }

    static void release(void* data, size_t size, void* dealloc) {
        for (size_t at = 0; at < size; at += item_size(STRING))
            reinterpret_cast<void (*)(void*)>(dealloc)(static_cast<char*>(data) + at);
        std::free(data);
    }

    bool look(TF_Tensor* tensor, const Output& output, bool null, Result& result) {
        const int type = output.type;
        result.tf = &tf_;
        result.as_bytes = output.as_bytes;
        result.type = tf_.tensor_type(tensor);
        result.rank = tf_.num_dims(tensor);
        if (result.type != type || result.rank > MAX_RANK) return false;
        int64_t count = 1;
        for (int axis = 0; axis < result.rank; ++axis) count *= result.dims[axis] = tf_.dim(tensor, axis);
        if (static_cast<size_t>(count) * item_size(type) != tf_.byte_size(tensor)) return false;
        result.bytes = static_cast<int64_t>(tf_.byte_size(tensor));
        result.step = count && result.rank ? count / result.dims[0] : 0;
        result.data = static_cast<const char*>(tf_.data(tensor));
        if (!null && ((type == FLOAT && !result.all_finite<float>(count)) ||
                      (type == DOUBLE && !result.all_finite<double>(count))))
            result.style = PYTHON;
        for (int64_t index = 0; type == STRING && result.all_text && index < count; ++index) {
            const Text text = result.string(result.data + index * static_cast<int64_t>(item_size(STRING)));
            result.all_text = is_text(text.start, text.size);
        }
        return true;
    }

    const Library& tf_;
    TF_Status* status_;
    TF_Tensor* fed_[MAX_TENSORS] = {};
    TF_Tensor* fetched_[MAX_TENSORS] = {};
};

int64_t now() {  // what time.perf_counter_ns reads
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * int64_t{1000000000} + time.tv_nsec;
}

// The Python side: Predictor(...), an object to call with a body.

struct Predictor {
    PyObject_HEAD PyObject* kept;  // the Python objects whose memory is pointed at, and the session
    Library tf;
    TF_Session* session;
    Limits limits;
    Text head;  // of an infer request's answer
    int null;
    int count;
    Signature signatures[MAX_SIGNATURES];
};

bool read_text(PyObject* value, Text& text) {
    char* start;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(value, &start, &size) < 0) return false;
    text = {start, static_cast<size_t>(size)};
    return true;
}

bool read_input(PyObject* value, Input& input, TF_Output& feed) {
    PyObject *name, *datatype, *dims;
    unsigned long long operation;
    if (!PyArg_ParseTuple(value, "SSiO!Ki", &name, &datatype, &input.type, &PyTuple_Type, &dims, &operation,
                          &feed.index) ||
        !read_text(name, input.name) || !read_text(datatype, input.datatype))
        return false;
    feed.oper = reinterpret_cast<TF_Operation*>(operation);
    Py_ssize_t rank = PyTuple_Size(dims);
    if (rank > MAX_RANK || !item_size(input.type) || input.type == BOOL) {
        PyErr_SetString(PyExc_ValueError, "an input of this type or rank is not for this way");
        return false;
    }
    input.rank = static_cast<int>(rank);
    for (int axis = 0; axis < input.rank; ++axis) {
        input.dims[axis] = PyLong_AsLongLong(PyTuple_GetItem(dims, axis));
        if (PyErr_Occurred()) return false;
    }
    return true;
}

bool read_output(PyObject* value, Output& output, TF_Output& fetch) {
    PyObject *name, *key, *datatype;
    unsigned long long operation;
    int as_bytes;
    if (!PyArg_ParseTuple(value, "SSSpiKi", &name, &key, &datatype, &as_bytes, &output.type, &operation,
                          &fetch.index) ||
        !read_text(name, output.name) || !read_text(key, output.key) || !read_text(datatype, output.datatype))
        return false;
    output.as_bytes = as_bytes;
    fetch.oper = reinterpret_cast<TF_Operation*>(operation);
    if (!item_size(output.type)) PyErr_SetString(PyExc_ValueError, "an output of this type is not for this way");
    return item_size(output.type) != 0;
}

bool read_signature(PyObject* value, Signature& signature) {
    PyObject *name, *inputs, *outputs;
    if (!PyArg_ParseTuple(value, "SO!O!", &name, &PyTuple_Type, &inputs, &PyTuple_Type, &outputs) ||
        !read_text(name, signature.name))
        return false;
    Py_ssize_t fed = PyTuple_Size(inputs), fetched = PyTuple_Size(outputs);
    if (fed < 1 || fetched < 1 || fed > MAX_TENSORS || fetched > MAX_TENSORS) {
        PyErr_SetString(PyExc_ValueError, "this many inputs or outputs are not for this way");
        return false;
    }
    signature.inputs = static_cast<int>(fed);
    signature.outputs = static_cast<int>(fetched);
    for (int place = 0; place < signature.inputs; ++place)
        if (!read_input(PyTuple_GetItem(inputs, place), signature.input[place], signature.feeds[place])) return false;
    for (int place = 0; place < signature.outputs; ++place)
        if (!read_output(PyTuple_GetItem(outputs, place), signature.output[place], signature.fetches[place]))
            return false;
    return true;
}

PyObject* predictor_new(PyTypeObject* type, PyObject* arguments, PyObject*) {
    unsigned long long handle, session;
    long long rows, elements, id, string, pixels;
    int null;
    PyObject *signatures, *head, *owner;
    Text text;
    if (!PyArg_ParseTuple(arguments, "KKO!SLLLLLpO", &handle, &session, &PyTuple_Type, &signatures, &head, &rows,
                          &elements, &id, &string, &pixels, &null, &owner) ||
        !read_text(head, text))
        return nullptr;
    Py_ssize_t count = PyTuple_Size(signatures);
    if (count < 1 || count > MAX_SIGNATURES) {
        PyErr_SetString(PyExc_ValueError, "this many signatures are not for this way");
        return nullptr;
    }
    auto allocate = reinterpret_cast<allocfunc>(PyType_GetSlot(type, Py_tp_alloc));
    auto* self = reinterpret_cast<Predictor*>(allocate(type, 0));  // zeroed
    if (!self) return nullptr;
    self->kept = PyTuple_Pack(3, signatures, head, owner);
    self->head = text;
    self->session = reinterpret_cast<TF_Session*>(session);
    self->limits = {rows, elements, id, string, pixels};
    self->null = null;
    self->count = static_cast<int>(count);
    bool fine = self->kept != nullptr;
    for (int place = 0; fine && place < self->count; ++place)
        fine = read_signature(PyTuple_GetItem(signatures, place), self->signatures[place]);
    if (fine)
        if (const char* missing = self->tf.find(reinterpret_cast<void*>(handle))) {
            PyErr_Format(PyExc_ValueError, "the library has no %s", missing);
            fine = false;
        }
    if (fine) return reinterpret_cast<PyObject*>(self);
    Py_DecRef(reinterpret_cast<PyObject*>(self));
    return nullptr;
}

void predictor_dealloc(PyObject* object) {
    auto* self = reinterpret_cast<Predictor*>(object);
    PyTypeObject* type = Py_TYPE(object);
    Py_XDECREF(self->kept);
    reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free))(object);
    Py_DecRef(reinterpret_cast<PyObject*>(type));
}

constexpr size_t NOTE = 510;  // bytes of a note, behind its size in two

// Writes what is about to be run where a parent process reads it if this one dies: "f: x [3, 4], y [3]".
void write_note(unsigned char* note, const Signature& signature, const Column* columns) {
    char text[NOTE];
    size_t size = 0;
    auto add = [&](const char* start, size_t count) {
        if (count > NOTE - size) count = NOTE - size;
        std::memcpy(text + size, start, count);
        size += count;
    };
    add(signature.name.start, signature.name.size);
    for (int place = 0; place < signature.inputs; ++place) {
        add(place ? ", " : ": ", 2);
        add(signature.input[place].name.start, signature.input[place].name.size);
        add(" [", 2);
        for (int axis = 0; axis < signature.input[place].rank; ++axis) {
            char number[24];
            int digits = std::snprintf(number, sizeof number, axis ? ", %lld" : "%lld",
                                       static_cast<long long>(columns[place].dims[axis]));
            add(number, static_cast<size_t>(digits));
        }
        add("]", 1);
    }
    note[0] = note[1] = 0;
    std::memcpy(note + 2, text, size);
    note[0] = static_cast<unsigned char>(size & 255);
    note[1] = static_cast<unsigned char>(size >> 8);
}

template <typename Request, typename... Arguments>
PyObject* answer(const Predictor& self, unsigned long long note, Arguments... arguments) {
    long long decoding = now(), decoded = 0, ran = 0, encoded = 0, rows = 1;
    Py_ssize_t place = 0;
    size_t head = 0;
    int code = 0;
    bool fine;
    Bytes body, message;
    PyThreadState* const lock = PyEval_SaveThread();
    {
        Request call(arguments...);
        fine = call.read(self.signatures, self.count, self.limits);
        if (fine) {
            const Input& first = call.signature->input[0];
            if (first.rank && first.dims[0] < 0) rows = call.columns[0].dims[0];
            place = call.signature - self.signatures;
            decoded = now();
            if (note) write_note(reinterpret_cast<unsigned char*>(note), *call.signature, call.columns);
            Run run(self.tf);
            fine = run.feed(call);
            if (fine && !run.run(self.session, *call.signature)) {
                code = run.code();
                message.add(run.message(), std::strlen(run.message()));
                fine = false;
            }
            ran = now();
            fine = fine && run.write(call, self.head, self.null, body, head);
            encoded = now();
        }
    }
    PyEval_RestoreThread(lock);
    if (code) return Py_BuildValue("iy#", code, message.data(), static_cast<Py_ssize_t>(message.size()));
    if (!fine) Py_RETURN_NONE;
    return Py_BuildValue("y#nnLLLLL", body.data(), static_cast<Py_ssize_t>(body.size()), static_cast<Py_ssize_t>(head),
                         place, rows, decoding, decoded, ran, encoded);
}

PyObject* predictor_predict(PyObject* self, PyObject* arguments) {
    PyObject* body;
    unsigned long long note = 0;
    Text text;
    if (!PyArg_ParseTuple(arguments, "S|K", &body, &note) || !read_text(body, text)) return nullptr;
    return answer<Predict>(*reinterpret_cast<Predictor*>(self), note, text.start, text.size);
}

PyObject* predictor_infer(PyObject* self, PyObject* arguments) {
    PyObject* body;
    Py_ssize_t size;
    unsigned long long note = 0;
    Text text;
    if (!PyArg_ParseTuple(arguments, "Sn|K", &body, &size, &note) || !read_text(body, text)) return nullptr;
    if (size < 0 || static_cast<size_t>(size) > text.size) Py_RETURN_NONE;
    return answer<Infer>(*reinterpret_cast<Predictor*>(self), note, text.start, static_cast<size_t>(size), text.size);
}

PyMethodDef methods[] = {
    {"predict", predictor_predict, METH_VARARGS,
     "predict(body, note=0) -> (answer, head, signature, rows, decoding, decoded, ran, encoded) | (code, message) | None\n\n"
     "Answer a predict request of TensorFlow Serving's; None for one that is to go the other way, (code, message) for\n"
     "one that TensorFlow refuses. `head` is the size of the JSON where binary tensors follow it, else 0. The\n"
     "signature is given by its place, the times by time.perf_counter_ns. `note` is the address of 512 bytes, in which\n"
     "the signature and the shapes stand while it runs: their size in two bytes, then the text."},
    {"infer", predictor_infer, METH_VARARGS,
     "infer(body, size, note=0) -> the same\n\nAnswer an infer request of the Open Inference Protocol, of so many bytes of "
     "JSON."},
    {nullptr, nullptr, 0, nullptr},
};

char doc[] =
    "Predictor(library, session, signatures, head, max_rows, max_elements, max_id_length,\n"
    "          max_string_bytes, max_pixels, null, owner)\n\n"
    "`library` is dlopen's handle, `session` a TF_Session*, both as numbers; `owner` keeps them. The first of the\n"
    "`signatures` answers where none is named; each is (name, inputs, outputs), of\n"
    "    (name, datatype, type, (size or -1, ...), TF_Operation*, index)\n"
    "    (name, key, datatype, as_bytes, type, TF_Operation*, index)\n"
    "a key being a JSON string with its colon. `max_pixels` is -1 where strings are no pictures. An infer request's "
    "answer begins with `head`. Raises ValueError for what\n"
    "this way does not take.";

PyType_Slot slots[] = {
    {Py_tp_new, reinterpret_cast<void*>(predictor_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(predictor_dealloc)},
    {Py_tp_methods, methods},
    {Py_tp_doc, doc},
    {0, nullptr},
};

PyType_Spec spec = {"_accelerator.Predictor", sizeof(Predictor), 0, Py_TPFLAGS_DEFAULT, slots};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "_accelerator", nullptr, 0, nullptr, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__accelerator() {
    PyObject* made = PyModule_Create(&module);
    PyObject* type = made ? PyType_FromSpec(&spec) : nullptr;
    if (!type || PyModule_AddIntConstant(made, "VERSION", VERSION) < 0 ||
        PyModule_AddObject(made, "Predictor", type) < 0) {
        Py_XDECREF(type);
        Py_XDECREF(made);
        return nullptr;
    }
    return made;
}
