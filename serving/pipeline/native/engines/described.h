// The engine that Python describes: ("tensorflow", library, (session,)) or
// ("litert", library, (environment, model, options, compiled, most)), all but the first and `most` being pointers as numbers.

#pragma once

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030A0000
#include <Python.h>

#include <array>
#include <cstdint>
#include <memory>
#include <new>
#include <string_view>

#include "litert_engine.h"
#include "tensorflow_engine.h"

namespace accelerator {

template <typename T>
T* pointer(unsigned long long number) {
    return reinterpret_cast<T*>(number);
}

// Looks the functions of a library up; says whether all are there, with an error set where one is not.
template <typename Functions>
bool find_functions(Functions& functions, void* library) {
    const char* const missing = functions.find(library);
    if (missing) PyErr_Format(PyExc_ValueError, "the library has no %s", missing);
    return !missing;
}

inline Engine* tensorflow_engine(void* library, PyObject* handles) {
    Library functions;
    unsigned long long session = 0;
    if (!PyArg_ParseTuple(handles, "K", &session) || !find_functions(functions, library)) return nullptr;
    return new (std::nothrow) TensorFlowEngine(functions, pointer<TF_Session>(session));
}

// Says whether the endpoints are those of one signature of the model, each of its positions once.
inline bool are_positions(const std::array<Endpoint, MAX_TENSORS>& endpoints, size_t count, uint64_t owner) {
    uint32_t seen = 0;
    for (size_t index = 0; index < count; ++index) {
        const auto position = static_cast<size_t>(endpoints[index].index);
        if (endpoints[index].owner != owner || position >= count) return false;
        seen |= 1U << position;
    }
    return seen == (1U << count) - 1;
}

inline bool is_for_litert(const Signature& signature) {
    for (size_t index = 0; index < signature.input_count; ++index)
        if (!litert_type(signature.inputs[index].type) || signature.inputs[index].rank > LITERT_MAX_RANK) return false;
    for (size_t index = 0; index < signature.output_count; ++index)
        if (!litert_type(signature.outputs[index].type)) return false;
    const uint64_t owner = signature.fetches[0].owner;
    return are_positions(signature.feeds, signature.input_count, owner) &&
           are_positions(signature.fetches, signature.output_count, owner);
}

inline Engine* litert_engine(void* library, PyObject* handles, const Model& model) {
    LiteRtLibrary functions;
    unsigned long long environment = 0, litert_model = 0, options = 0, compiled = 0;
    Py_ssize_t most = 0;
    if (!PyArg_ParseTuple(handles, "KKKKn", &environment, &litert_model, &options, &compiled, &most) ||
        !find_functions(functions, library))
        return nullptr;
    for (size_t index = 0; index < model.signature_count; ++index) {
        if (is_for_litert(model.signatures[index])) continue;
        PyErr_SetString(PyExc_ValueError, "LiteRT does not run this signature here");
        return nullptr;
    }
    const LiteRtHandles opened{pointer<LiteRtEnvironment>(environment), pointer<LiteRtModel>(litert_model),
                               pointer<LiteRtOptions>(options), pointer<LiteRtCompiledModel>(compiled)};
    return new (std::nothrow) LiteRtEngine(functions, opened, static_cast<size_t>(most));
}

// nullptr with an error set where it cannot be made.
inline std::unique_ptr<Engine> described_engine(PyObject* description, const Model& model) {
    const char* kind = nullptr;
    unsigned long long library = 0;
    PyObject* handles = nullptr;
    if (!PyArg_ParseTuple(description, "sKO!", &kind, &library, &PyTuple_Type, &handles)) return nullptr;
    std::unique_ptr<Engine> engine;
    if (std::string_view(kind) == "tensorflow") {
        engine.reset(tensorflow_engine(pointer<void>(library), handles));
    } else if (std::string_view(kind) == "litert") {
        engine.reset(litert_engine(pointer<void>(library), handles, model));
    } else {
        PyErr_Format(PyExc_ValueError, "engine: expected tensorflow or litert, got %s", kind);
    }
    if (!engine && !PyErr_Occurred()) PyErr_NoMemory();
    return engine;
}

}  // namespace accelerator
